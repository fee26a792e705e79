"""Whether a repository on the Hub is there and may be read, asked in a second or two and without its weights."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from simpletuner.errors import Problem

_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """What is wrong with a repository."""

    said: str
    is_certain: bool
    """Whether the Hub says so; otherwise it could only not be asked."""


def findings(places: Mapping[str, tuple[str, str | None]]) -> Iterator[tuple[str, Finding]]:
    """What is wrong with repositories, by the options that name them; one that is on this machine is not asked for.

    Args:
        places: A repository and a revision for each option.
    """
    for option, (repository, revision) in places.items():
        found = None if _is_here(repository, revision) else _look(repository, revision)
        if found is not None:
            yield option, found


def closed(found: Iterable[tuple[str, Finding]], always_used: Container[str] = ()) -> Iterator[Problem]:
    """The repositories that surely cannot be read.

    A Hub that does not answer may do so later, or caches may hold what a repository is for; but not if the options
    `always_used` name it and the user has forbidden to ask the Hub.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    for option, one in found:
        if one.is_certain or (HF_HUB_OFFLINE and option in always_used):
            yield Problem(option, one.said)


def has_token() -> bool:
    """Whether the Hub would know who asks."""
    from huggingface_hub import get_token

    return get_token() is not None


def _look(repository: str, revision: str | None) -> Finding | None:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The error of the HTTP library that the Hub client uses, which has changed over time: the base of its own.
    network_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        gated = HfApi().model_info(repository, revision=revision, timeout=_SECONDS).gated
        if gated and get_token() is not None:
            HfApi().auth_check(repository)
    except RevisionNotFoundError:
        return Finding(f"{repository} has no revision '{revision}' on the Hub", is_certain=True)
    except GatedRepoError:
        return Finding(_NOT_ACCEPTED.format(repository), is_certain=True)
    except RepositoryNotFoundError:
        return Finding(_NOT_FOUND.format(repository), is_certain=True)
    except (network_error, OSError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return Finding(f"{repository} could not be looked up on the Hub: {reason}", is_certain=False)
    return Finding(_GATED.format(repository), is_certain=True) if gated and get_token() is None else None


_NOT_FOUND = "{} is not on the Hub, or not open to you: check the id, and set HF_TOKEN"
_GATED = "{} is gated: accept its licence on its page on the Hub, and set HF_TOKEN"
_NOT_ACCEPTED = "{} is gated, and your token may not read it: accept its licence on its page on the Hub"


def _is_here(repository: str, revision: str | None) -> bool:
    """Whether weights of it were downloaded before; smaller files are open to all, also of gated repositories."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(repository, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, OSError):
        return False
    return any(Path(folder).rglob("*.safetensors"))
