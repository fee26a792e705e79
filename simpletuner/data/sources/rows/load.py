"""Fetches a data set through the library `datasets`, and says clearly why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Address:
    """Which rows are meant."""

    name: str
    """An id on the Hub, a folder, or a Parquet or Arrow file."""
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    cache_dir: Path | None = None
    """Where downloads and the library's own copies are kept; its usual place unless given."""
    processes: int = 1
    id: str = field(default="", compare=False, repr=False)
    """The data set of the run, for messages."""

    @property
    def path(self) -> Path:
        """The name as a path on this machine."""
        return Path(self.name).expanduser()

    @property
    def is_kept(self) -> bool:
        """Whether something of it may be on this machine already."""
        return self.path.exists() or (self.cache_dir is not None and self.cache_dir.is_dir())

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"

    def error(self, text: str) -> DataError:
        """What is wrong with these rows, with the names that the user gave them."""
        return DataError(f"data set '{self.id}': dataset_name {self} {text}")


def load(address: Address) -> Dataset:
    """All rows of one split, ready on this machine; a DataError says what is wrong with the address."""
    _refuse_without_library(address)
    with _failures_told(address), _quiet():
        if is_saved(address.path):
            return _from_disk(address)
        return _from_files(address) if address.path.is_file() else _from_folder_or_hub(address)


def _refuse_without_library(address: Address) -> None:
    found = find_spec("datasets")
    if found is None or found.origin is None:  # a folder called datasets, such as ours for images, has no origin
        raise address.error("needs the library datasets. Install it: pip install 'simpletuner[hub]'")


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _from_disk(address: Address) -> Dataset:
    """What `save_to_disk` wrote: one data set, or one for each split."""
    from datasets import Dataset, load_from_disk

    found = load_from_disk(str(address.path))
    if isinstance(found, Dataset):
        if address.split not in ("train", str(found.split)):
            raise ValueError(f"it holds one data set without splits, so there is no split '{address.split}'")
        return found
    if address.split not in found:
        raise ValueError(f"it has no split '{address.split}', only {', '.join(map(str, found))}")
    return found[address.split]


def _from_files(address: Address) -> Dataset:
    from datasets import Dataset, load_dataset

    kind = _FILES.get(address.path.suffix.lower())
    if kind is None:
        raise ValueError(f"it is a file, and only {' and '.join(_FILES)} files hold rows")
    found = load_dataset(
        kind, data_files={"train": str(address.path)}, split=address.split, cache_dir=_text(address.cache_dir)
    )
    assert isinstance(found, Dataset)
    return found


def _from_folder_or_hub(address: Address) -> Dataset:
    from datasets import Dataset, load_dataset

    if not address.path.is_dir() and address.name.startswith((".", "/", "~")):
        raise FileNotFoundError("there is no such folder")
    found = load_dataset(
        str(address.path) if address.path.is_dir() else address.name,
        address.subset,
        split=address.split,
        revision=address.revision,
        cache_dir=_text(address.cache_dir),
        num_proc=address.processes if address.processes > 1 else None,
    )
    assert isinstance(found, Dataset)
    return found


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


@contextmanager
def _failures_told(address: Address) -> Iterator[None]:
    """Turn what the libraries raise for a wrong address into a message that says what to change."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    try:
        yield
    # ValueError: an unknown split or subset; RuntimeError: a data set that is a program; OSError: network and disk.
    except (DatasetsError, OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        reason = _reason(error)
        raise address.error(f"cannot be loaded: {reason}. {_advice(reason)}") from error


def _reason(error: BaseException) -> str:
    """What went wrong first: the library wraps the failure of a file in one that says little."""
    while type(error).__name__.startswith("DatasetGeneration") and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return (text[:_LONGEST] + "..." if len(text) > _LONGEST else text).rstrip(".")


def _advice(reason: str) -> str:
    lowered = reason.lower()
    return next((advice for words, advice in _ADVICE.items() if any(word in lowered for word in words)), _ANY_ADVICE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own progress bars: nothing but the reporter writes to the terminal."""
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


_FILES = {".parquet": "parquet", ".arrow": "arrow"}

_LONGEST = 400

_ADVICE: Mapping[tuple[str, ...], str] = {
    ("gated", "authenticated", "401", "403"): (
        "Accept its licence on its page on the Hub, and set HF_TOKEN to a token that may read it."
    ),
    ("split",): "Change split.",
    ("config name", "builderconfig"): "Choose one of them with subset.",
    ("script",): "Data sets that are programs are not run: look for a copy in Parquet, and change dataset_name.",
    ("no space", "disk quota"): "Free some space, or set cache_dir to a folder on a larger disk.",
    ("offline", "connection", "resolve", "timed out"): "Check the network; what was fetched before is still used.",
}

_ANY_ADVICE = (
    "Check dataset_name and revision: it is an id on the Hub such as owner/name, or a folder; for a private data set, "
    "set HF_TOKEN."
)
