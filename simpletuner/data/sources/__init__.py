"""The kinds of entries that a data file can have; each table is complete, and nothing else needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from simpletuner.data.sources.aws import Aws
from simpletuner.data.sources.base import DataBackend, Source
from simpletuner.data.sources.csv import Csv
from simpletuner.data.sources.embeds import Embeds, ImageEmbeds, TextEmbeds
from simpletuner.data.sources.huggingface import HuggingFace
from simpletuner.data.sources.local import Local
from simpletuner.data.sources.memory import Memory
from simpletuner.data.sources.webshart import Webshart
from simpletuner.schema import Section, Variant


class Entries(Variant):
    """Entries of a data file: an entry for a cache is told by its dataset_type, one for images by its type."""

    def __init__(self, images: Variant, caches: Variant) -> None:
        super().__init__(images.noun, {**images, **caches}, default=images.default)
        self.images = images
        self.caches = caches

    def section_for(self, entry: Mapping[str, Any]) -> type[Section]:
        """The options that an entry can have; an error names the nearest type when there is no such one."""
        return self[self._name(entry)]

    def named(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """An entry with our name for its kind; an error names the nearest one when there is no such kind."""
        key = self._table(entry).key
        return {**entry, key: self._name(entry)} if key in entry else dict(entry)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate an entry by the section it belongs to; an entry that is a section already passes."""
        choices: dict[Any, CoreSchema] = {name: handler.generate_schema(section) for name, section in self.items()}
        return core_schema.tagged_union_schema(choices, self._name)

    def _name(self, entry: Any) -> str:
        table = self._table(entry)
        return table.check(_value(entry, table.key) or table.default)

    def _table(self, entry: Any) -> Variant:
        return self.caches if self.caches.ours(_value(entry, "dataset_type")) else self.images


def _value(entry: Any, key: str) -> Any:
    if isinstance(entry, Section):
        return entry.__dict__.get(key)
    return entry.get(key) if isinstance(entry, Mapping) else None


CACHES = Variant(
    "cache",
    {"text_embeds": TextEmbeds, "image_embeds": ImageEmbeds, "conditioning_image_embeds": ImageEmbeds},
    default="text_embeds",
    key="dataset_type",
)

SOURCES = Entries(
    Variant(
        "data backend",
        {
            "local": Local,
            "aws": Aws,
            "csv": Csv,
            "huggingface": HuggingFace,
            "webshart": Webshart,
            "memory": Memory,
        },
        default="local",
    ),
    CACHES,
)

DataEntry = DataBackend | Embeds
"""Any entry of a data file, after validation."""

__all__ = [
    "CACHES",
    "SOURCES",
    "Aws",
    "Csv",
    "DataBackend",
    "DataEntry",
    "Embeds",
    "Entries",
    "HuggingFace",
    "ImageEmbeds",
    "Local",
    "Memory",
    "Source",
    "TextEmbeds",
    "Webshart",
]
