"""What the captions of one data set look like, what is odd about them, and how many tokens they are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from simpletuner.data import captions
from simpletuner.data.captions.lint import KINDS, Captioned, Statistics, lint, statistics
from simpletuner.data.dataset import Dataset
from simpletuner.data.report.facts import Bin, binned
from simpletuner.progress import Advanced, Reporter, StageStarted

Count = Callable[[Sequence[str]], Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class Tokenizers:
    """How the text encoders of the model split captions, and how much of a caption they read."""

    count: Count
    """The number of tokens of each text, as CLIP and as T5 count them."""
    limits: tuple[int, int]


@dataclass(frozen=True)
class Odd:
    """One kind of oddity: see `caption_lint.KINDS`."""

    kind: str
    count: int
    """How many images it concerns."""
    examples: tuple[tuple[str, str], ...]
    """Names of a few images, each with the words that look odd."""
    meaning: str
    """What it means for training, in whole sentences."""
    is_serious: bool


@dataclass(frozen=True)
class Tokens:
    """How long captions are for the text encoders."""

    limits: tuple[int, int]
    lengths: tuple[Bin, ...]
    """In tokens of T5, which reads the whole caption."""
    longest: tuple[int, int]
    cut: tuple[int, int]
    """How many captions each encoder cuts off."""
    examples: tuple[tuple[str, int, str], ...]
    """A few that T5 cuts off: the name of an image, the number of tokens, the caption."""


@dataclass(frozen=True)
class Wording:
    """Everything there is to know about the captions of one data set."""

    statistics: Statistics
    odd: tuple[Odd, ...]
    tokens: Tokens | None
    """Nothing where tokens could not be counted."""
    samples: tuple[tuple[str, str], ...]
    """A few images and one caption of each."""


def wording(dataset: Dataset, tokenizers: Tokenizers | None, reporter: Reporter) -> Wording:
    """Read all captions of a data set, and count their tokens where that is possible."""
    rules = dataset.records.rules
    images = list(_captioned(dataset))
    return Wording(
        statistics=statistics(images, rules),
        odd=tuple(_odd(dataset, images)),
        tokens=None if tokenizers is None else _tokens(dataset, images, tokenizers, reporter),
        samples=tuple(_samples(dataset, images)),
    )


def _captioned(dataset: Dataset) -> Iterator[Captioned]:
    rules = dataset.records.rules
    for row in dataset.records.rows():
        texts = None if row.captions is None else tuple(row.captions)
        yield Captioned(row.key, texts, captions.alternatives(row.key, texts, rules))


def _odd(dataset: Dataset, images: Sequence[Captioned]) -> Iterator[Odd]:
    counts, examples = Counter[str](), dict[str, list[tuple[str, str]]]()
    for finding in lint(images, dataset.records.rules):
        counts[finding.kind] += len(finding.keys)
        some = examples.setdefault(finding.kind, [])
        if len(some) < _NAMED:
            some.append((_names(dataset, finding.keys), finding.what))
    for kind, count in counts.most_common():
        meaning, is_serious = _meaning(kind, dataset.records.rules)
        yield Odd(kind, count, tuple(examples[kind]), meaning, is_serious)


def _meaning(kind: str, rules: captions.Rules) -> tuple[str, bool]:
    """What an oddity means, and whether training suffers or does not even start."""
    summary = KINDS.summary(kind)
    if kind not in _SILENT:
        return summary, kind == "nothing left"
    if rules.fallback:
        return f"{summary} The caption_fallback is used.", False
    return f"{summary} Training does not start without it, or caption_fallback.", True


def _names(dataset: Dataset, keys: Sequence[str]) -> str:
    named = ", ".join(dataset.source.name(key) if len(keys) == 1 else key for key in keys[:_TOGETHER])
    return f"{named} and {len(keys) - _TOGETHER} more" if len(keys) > _TOGETHER else named


def _tokens(dataset: Dataset, images: Iterable[Captioned], tokenizers: Tokenizers, reporter: Reporter) -> Tokens:
    owners: dict[str, str] = {}
    for image in images:
        for text in image.alternatives:
            owners.setdefault(text, image.key)
    texts = list(owners)
    counts = list(_counted(dataset.id, texts, tokenizers, reporter))
    limits = tokenizers.limits
    longest = tuple(max((count[encoder] for count in counts), default=0) for encoder in (0, 1))
    cut = tuple(sum(count[encoder] > limits[encoder] for count in counts) for encoder in (0, 1))
    far = sorted((-t5, text) for (_, t5), text in zip(counts, texts, strict=True) if t5 > limits[1])
    return Tokens(
        limits=limits,
        lengths=binned([t5 for _, t5 in counts]),
        longest=(longest[0], longest[1]),
        cut=(cut[0], cut[1]),
        examples=tuple((dataset.source.name(owners[text]), -count, text) for count, text in far[:_NAMED]),
    )


def _counted(id: str, texts: Sequence[str], tokenizers: Tokenizers, reporter: Reporter) -> Iterator[tuple[int, int]]:
    reporter.report(StageStarted(f"counting the tokens of the captions of data set '{id}'", len(texts)))
    for start in range(0, len(texts), _AT_ONCE):
        part = texts[start : start + _AT_ONCE]
        yield from tokenizers.count(part)
        reporter.report(Advanced(len(part)))


def _samples(dataset: Dataset, images: Sequence[Captioned]) -> Iterator[tuple[str, str]]:
    """Captions from everywhere in the data set."""
    step = max(1, len(images) // _SAMPLES)
    for image in images[::step][:_SAMPLES]:
        yield dataset.source.name(image.key), image.alternatives[0] if image.alternatives else ""


_SILENT = frozenset({"missing", "empty"})

_NAMED = 30
_TOGETHER = 3
_SAMPLES = 6
_AT_ONCE = 2000
