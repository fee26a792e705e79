"""PROVISIONAL by the architect."""


def check(config):
    return []
