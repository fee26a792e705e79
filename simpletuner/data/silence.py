"""Images that nothing is said about: all of them are named in one report, with what may be meant for a caption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from simpletuner.data import captions
from simpletuner.data.dataset import Dataset
from simpletuner.data.manifest import Row
from simpletuner.data.options import DataDefaults
from simpletuner.data.scan import LONGEST_CAPTION
from simpletuner.data.skipped import write_table
from simpletuner.data.sources.local import LocalFolder
from simpletuner.errors import DataError


def refuse(dataset: Dataset) -> None:
    """Raise a DataError that names images without a caption, when there are any; all of them are listed in a file."""
    path = dataset.manifest.path.with_suffix(".captions.tsv")
    found = list(_silent(dataset))
    write_table(path, [(dataset.source.name(key), trouble) for key, trouble in found])
    if not found:
        _refuse_emptied(dataset)
        return
    some = "".join(f"\n  {dataset.source.name(key)}: {trouble}" for key, trouble in found[:_SHOWN])
    more = f"\n  and {len(found) - _SHOWN} more, see {path}" if len(found) > _SHOWN else ""
    raise DataError(
        f"data set '{dataset.id}': {len(found)} of its images {'has' if len(found) == 1 else 'have'} no caption:"
        f"{some}{more}{_meant(dataset, found[0][0])}\nWrite the captions, take the images away, set caption_fallback, "
        f"or choose another caption_strategy."
    )


def unread(dataset: Dataset, defaults: DataDefaults) -> Iterator[str]:
    """A note on caption files that are not read because nobody has said where captions come from."""
    is_said = any("caption_strategy" in one.model_fields_set for one in (dataset.options, defaults))
    count = dataset.manifest.unread
    if count and not is_said and dataset.records.rules.strategy == "filename":
        images = "image has" if count == 1 else "images have"
        yield (
            f"{count} {images} a {dataset.options.caption_extension} file that is not read: captions are the names of "
            f"the images; set caption_strategy to textfile to read them, or to filename to leave it so"
        )


def _refuse_emptied(dataset: Dataset) -> None:
    """Look at some captions: where filters take everything out of all of them, they are not what was meant."""
    some = dataset.records[:_LOOKED_AT] if dataset.records.rules.filters else []
    if some and not any(caption for record in some for caption in record.captions):
        raise DataError(
            f"data set '{dataset.id}': caption_filter_list takes everything out of its captions, such as that of "
            f"{dataset.source.name(some[0].key)}. Change the filters."
        )


def _silent(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """The keys of images without a caption, each with the reason."""
    rules = dataset.records.rules
    for row in dataset.records.only(dataset.records.unsure()).rows():
        texts = None if row.captions is None else tuple(row.captions)
        if not captions.stated(row.key, texts, rules) or _is_too_large(row, rules):
            yield row.key, _trouble(row, rules)


def _is_too_large(row: Row, rules: captions.Rules) -> bool:
    """Whether a caption file was not read because it cannot be one."""
    return rules.reads_text_files and bool(row.caption_version) and row.captions == []


def _trouble(row: Row, rules: captions.Rules) -> str:
    if not rules.reads_text_files:
        return f"caption_strategy {rules.strategy} gives no text for it"
    if _is_too_large(row, rules):
        return f"its {rules.extension} file has more than {LONGEST_CAPTION // 1000} kB, and no caption is that long"
    file = f"{rules.extension} file"
    return f"there is no {file} of this name" if row.captions is None else f"its {file} is empty"


def _meant(dataset: Dataset, key: str) -> str:
    """What lies beside an image in a folder and looks like its caption under another name."""
    rules, source = dataset.records.rules, dataset.source
    if not (rules.reads_text_files and isinstance(source, LocalFolder)):
        return ""
    image = Path(source.name(key))
    for ending in _ENDINGS:
        if image.with_suffix(ending).is_file() and ending != rules.extension:
            return f"\nBeside {image.name} lies {image.stem}{ending}: set caption_extension to {ending}."
    whole = image.with_name(f"{image.name}{rules.extension}")
    if whole.is_file():
        return f"\nBeside {image.name} lies {whole.name}, which has to be called {image.stem}{rules.extension}."
    return ""


_SHOWN = 5
_LOOKED_AT = 50
_ENDINGS = (".txt", ".caption", ".tags", ".text", ".cap")
"""Which endings caption files have, here and elsewhere."""
