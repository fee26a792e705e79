"""Data files as people write them, and what is said about them."""

from typing import Any

from simpletuner.data.checks import check_entries
from simpletuner.data.entries import read_entries
from simpletuner.data.options import DataDefaults
from simpletuner.data.sources import DataBackend, DataEntry


def image(id: str = "subject", **options: Any) -> dict[str, Any]:
    """The entry of a folder."""
    return {"id": id, "instance_data_dir": "datasets/subject", **options}


def texts(id: str, **options: Any) -> dict[str, Any]:
    """The entry of a cache for captions."""
    return {"id": id, "dataset_type": "text_embeds", **options}


def latents(id: str, **options: Any) -> dict[str, Any]:
    """The entry of a cache for encoded images."""
    return {"id": id, "dataset_type": "image_embeds", **options}


def entries(*raw: dict[str, Any]) -> tuple[DataEntry, ...]:
    """The entries of a data file without mistakes that reading finds."""
    found, wrong = read_entries(list(raw))
    assert wrong == []
    return found


def first(*raw: dict[str, Any]) -> DataBackend:
    """The first entry of a data file."""
    (entry, *_) = entries(*raw)
    assert isinstance(entry, DataBackend)
    return entry


def complaints(*raw: Any, **defaults: Any) -> list[str]:
    """Everything that is wrong with a data file."""
    found, wrong = read_entries(list(raw))
    more = check_entries(found, DataDefaults(**defaults), complete=not wrong)
    return [str(problem) for problem in [*wrong, *more]]
