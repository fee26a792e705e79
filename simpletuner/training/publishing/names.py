"""Which names repositories and branches on the Hub can have."""

from __future__ import annotations

import re


def wrong_repository(name: str) -> str | None:
    """What is wrong with the id of a repository, as the rest of a sentence that begins with it."""
    if "://" in name:
        return "is an address; give the id alone, such as you/my-lora"
    if not _REPOSITORY.fullmatch(name):
        return "cannot be the name of a repository; use letters, digits, - . and _, as in you/my-lora"
    return None


def wrong_branch(name: str) -> str | None:
    """What is wrong with the name of a branch, as the rest of a sentence that begins with it."""
    return None if _BRANCH.fullmatch(name) else "cannot be a branch; use letters, digits, - . / and _"


_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"(?:{_PART}/)?{_PART}")
_BRANCH = re.compile(r"(?!.*(?:\.\.|//))[\w][\w./-]*(?<![./])")
