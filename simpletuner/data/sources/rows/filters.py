"""Which rows of a data set are used: a pure function of what its columns say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simpletuner.data.items import Size
from simpletuner.data.tables.said import number, texts, within


@dataclass(frozen=True)
class Rules:
    """What rows must be like."""

    collections: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """The lowest score that is good enough, for each kind of score."""
    quality_column: str | None = None
    """The column with scores: a number, or an object with several; else each kind is a column of its own."""
    minimum_width: float = 0.0
    minimum_height: float = 0.0

    def columns(self, kinds: Mapping[str, object]) -> tuple[str, ...]:
        """What the rules look at in a data set with columns of these kinds."""
        collections = (_COLLECTION,) if self.collections else ()
        return (*collections, *dict.fromkeys(self._scores(kinds)))

    def _scores(self, kinds: Mapping[str, object]) -> list[str]:
        column = self.quality_column
        if column is None or not self.thresholds:
            return list(self.thresholds)
        is_object = isinstance(kinds.get(column), Mapping)
        return [f"{column}.{name}" if is_object else column for name in self.thresholds]

    @property
    def needs_size(self) -> bool:
        """Whether the size of an image decides."""
        return self.minimum_width > 0 or self.minimum_height > 0


def refusal(row: Mapping[str, object], size: Size | None, rules: Rules) -> str:
    """Why a row is not used, in words that are the same for all such rows; empty when it is used."""
    if rules.collections and not set(texts(row.get(_COLLECTION))) & set(rules.collections):
        return "left out by filter_func: not of a wanted collection"
    for name, lowest in rules.thresholds.items():
        score = _score(row, name, rules)
        if score is None or score < lowest:
            return f"left out by filter_func: {name} is not at least {lowest:g}"
    if size is not None and size.width < rules.minimum_width:
        return f"left out by filter_func: narrower than min_width ({rules.minimum_width:g} px)"
    if size is not None and size.height < rules.minimum_height:
        return f"left out by filter_func: lower than min_height ({rules.minimum_height:g} px)"
    return ""


def _score(row: Mapping[str, object], name: str, rules: Rules) -> float | None:
    if rules.quality_column is None:
        return number(within(row, name))
    found = within(row, rules.quality_column)
    return number(within(found, name)) if isinstance(found, Mapping) else number(found)


_COLLECTION = "collection"
