"""What is still to be uploaded, kept on disk until the Hub has it: whatever ends the run, nothing is forgotten.

A parcel is a folder with a label and the files of one commit. Files are linked, not copied, where the disk can do that:
a checkpoint that is pruned while it waits is still uploaded, and takes no room twice.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from simpletuner.errors import PublishError
from simpletuner.storage.local import cannot_write, write_whole

FOLDER = "outbox"
_LABEL = "label.json"
_CONTENT = "content"


@dataclass(frozen=True)
class Label:
    """What is written on a parcel: where it goes, and what it is of."""

    repository: str
    """The id on the Hub; without an owner, the token's owner."""
    private: bool = True
    branch: str | None = None
    message: str = "Upload"
    step: int = 0
    """How long it was trained."""
    source: str = ""
    """The folder below the output folder that it was made from; nothing for the result."""


@dataclass(frozen=True)
class Content:
    """What is in a parcel: files and texts by their path in the repository."""

    files: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parcel:
    """One upload that waits."""

    path: Path

    @property
    def label(self) -> Label:
        """What is written on it.

        Raises:
            PublishError: That cannot be read.
        """
        try:
            return Label(**json.loads((self.path / _LABEL).read_text()))
        except (OSError, ValueError, TypeError) as error:
            said = f"'{self.path}' cannot be sent: {_LABEL} cannot be read ({error}); remove the folder."
            raise PublishError(said) from error

    @property
    def files(self) -> dict[str, Path]:
        """The files by their path in the repository."""
        content = self.path / _CONTENT
        found = sorted(path for path in content.rglob("*") if path.is_file())
        return {path.relative_to(content).as_posix(): path for path in found}

    def bytes(self) -> int:
        """How large it is; nothing once somebody else has sent it."""
        try:
            return sum(path.stat().st_size for path in self.files.values())
        except FileNotFoundError:
            return 0


@dataclass(frozen=True)
class Outbox:
    """The uploads that wait in a folder, oldest first."""

    folder: Path

    def put(self, label: Label, content: Content) -> None:
        """Keep a parcel; it is there whole or not at all.

        Raises:
            DataError: The disk does not take it.
        """
        place = self.folder / f"{self._next():06}"
        partial = place.with_name(f".{place.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _pack(partial, label, content)
            partial.rename(place)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise cannot_write(place, error) from error

    def waiting(self) -> list[Parcel]:
        """The parcels that are still to be sent, oldest first."""
        return [Parcel(path) for path in self._places()]

    def done(self, parcel: Parcel) -> None:
        """Forget a parcel that has arrived, also when another process has sent it and forgotten it already."""
        gone = parcel.path.with_name(f".{parcel.path.name}.sent")
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(FileNotFoundError):
            parcel.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _places(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.isdecimal())

    def _next(self) -> int:
        places = self._places()
        return int(places[-1].name) + 1 if places else 1


def _pack(folder: Path, label: Label, content: Content) -> None:
    (folder / _CONTENT).mkdir(parents=True)
    for name, path in content.files.items():
        target = folder / _CONTENT / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(path, target)
    for name, text in content.texts.items():
        write_whole(folder / _CONTENT / name, text.encode())
    write_whole(folder / _LABEL, json.dumps(asdict(label), indent=2).encode())


def _link(path: Path, target: Path) -> None:
    """The same file under a second name: ours are replaced when they change, and never written into."""
    try:
        os.link(path.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(path, target)
