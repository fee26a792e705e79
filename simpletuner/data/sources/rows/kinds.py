"""What the columns of a data set hold, whoever says it: its library, its page on the Hub, or a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

IMAGES, OTHER = "images", ""

Kinds = Mapping[str, object]
"""For each column what it holds: IMAGES, OTHER, or for objects the same of each of their parts."""


def of_features(features: Mapping[str, object]) -> Kinds:
    """Of the features as the library `datasets` writes them into files."""
    return {name: _of_feature(kind) for name, kind in features.items()}


def of_page(columns: Sequence[Mapping[str, object]]) -> Kinds:
    """Of the list of features on the page of a data set."""
    return {str(one.get("name", "")): _of_column(one) for one in columns}


def of_schema(schema: pa.Schema) -> Kinds:
    """Of the columns of a Parquet file."""
    return {field.name: _of_type(field.type) for field in schema}


def paths(kinds: Kinds, before: str = "") -> Iterator[str]:
    """Every column, and every part of columns that hold objects."""
    for name, kind in kinds.items():
        yield before + name
        if isinstance(kind, Mapping):
            yield from paths(kind, f"{before}{name}.")


def holds_images(kinds: Kinds, column: str) -> bool:
    """Whether files are kept in a column: as images, as bare bytes, or as objects with bytes in them."""
    kind = kinds.get(column)
    return "bytes" in kind if isinstance(kind, Mapping) else kind == IMAGES


def _of_feature(kind: object) -> object:
    if not isinstance(kind, Mapping):
        return OTHER
    if "_type" not in kind:
        return of_features(kind)
    is_bare = kind["_type"] == "Value" and kind.get("dtype") in _BYTES
    return IMAGES if is_bare or kind["_type"] == "Image" else OTHER


def _of_column(column: Mapping[str, object]) -> object:
    parts, kind = column.get("struct"), column.get("dtype")
    if isinstance(parts, Sequence) and not isinstance(parts, str):
        return of_page([part for part in parts if isinstance(part, Mapping)])
    is_image = kind in ("image", *_BYTES) or (isinstance(kind, Mapping) and "image" in kind)
    return IMAGES if is_image else OTHER


def _of_type(kind: pa.DataType) -> object:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {field.name: _of_type(field.type) for field in kind}
    return IMAGES if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else OTHER


_BYTES = ("binary", "large_binary")
