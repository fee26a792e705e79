"""PROVISIONAL by the architect."""
ENVIRONMENT_NAMES: dict[str, str] = {}


def modernise(flat):
    return dict(flat), []
