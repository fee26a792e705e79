"""Publishing: the adapter, its card and its pictures go to the Hub; if the Hub refuses, everything is still on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simpletuner.errors import PublishError


@dataclass(frozen=True)
class Upload:
    """What goes where."""

    repository: str
    """The id on the Hub; without an owner, the token's owner."""
    private: bool
    folder: Path
    files: tuple[str, ...]
    """Paths and patterns inside the folder."""
    texts: Mapping[str, str]
    """Further files by their name in the repository."""
    message: str


def push(upload: Upload) -> str:
    """Upload; returns the address of the repository.

    Raises:
        PublishError: The Hub refused or could not be reached; the message says how to try again.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        created = api.create_repo(upload.repository, private=upload.private, exist_ok=True)
        api.upload_folder(
            repo_id=created.repo_id,
            folder_path=upload.folder,
            allow_patterns=list(upload.files),
            commit_message=upload.message,
        )
        for name, text in upload.texts.items():
            api.upload_file(
                repo_id=created.repo_id,
                path_or_fileobj=text.encode(),
                path_in_repo=name,
                commit_message=f"{upload.message}: {name}",
            )
    except Exception as error:  # an upload is somebody else's code, network and service: whatever fails, files are safe
        reason = str(error).strip().partition("\n")[0]
        raise PublishError(
            f"'{upload.repository}' could not be uploaded: {reason} Set HF_TOKEN to a token that may write, and try "
            f"again with: hf upload {upload.repository} {upload.folder}. All files are safe in '{upload.folder}'."
        ) from error
    return str(created)
