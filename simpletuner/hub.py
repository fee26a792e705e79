"""Whether a repository on the Hub is there and may be read, asked in a second or two and without its weights."""

from __future__ import annotations

_SECONDS = 3.0


def reachable(repository: str, revision: str | None) -> str | None:
    """What is wrong with a repository, or None when it can be read."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # The error of the HTTP library that the Hub client uses, which has changed over time: the base of its own.
    network_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        found = HfApi().model_info(repository, revision=revision, timeout=_SECONDS)
    except RevisionNotFoundError:
        return f"{repository} has no revision '{revision}' on the Hub"
    except RepositoryNotFoundError:
        return f"{repository} is not on the Hub, or not open to you: check the id, and set HF_TOKEN"
    except (network_error, OSError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return f"{repository} could not be looked up on the Hub: {reason}"
    if found.gated and get_token() is None:
        return f"{repository} is gated: accept its licence on its page on the Hub, and set HF_TOKEN"
    return None
