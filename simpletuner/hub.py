"""Whether a repository on the Hub is there and may be read, asked in a second and without its weights."""

from __future__ import annotations


def reachable(repository: str, revision: str | None) -> str | None:
    """What is wrong with a repository, or None when it can be read."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().auth_check(repository) if revision is None else HfApi().model_info(
            repository, revision=revision, timeout=3
        )
    except GatedRepoError:
        return f"{repository} is gated: accept its licence on its page on the Hub, and set HF_TOKEN"
    except RepositoryNotFoundError:
        return f"{repository} is not on the Hub, or not open to you: check the id, and set HF_TOKEN"
    except (HfHubHTTPError, OSError) as error:
        return f"{repository} could not be asked for: {str(error).strip().partition(chr(10))[0]}"
    return None
