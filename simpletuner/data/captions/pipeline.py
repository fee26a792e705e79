"""What sd-scripts does to captions, so that every text it can make is known before anything is encoded.

Steps that never change are done to each caption once. Steps that draw at random (words out of braces, the order of
tags, tags left out) give a fixed number of results, and each use of an image draws one of those. While tags are warmed
up, there are results for a few numbers of tags, from the first to all of them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from simpletuner.data.dice import Dice
from simpletuner.data.sections import CaptionPipeline
from simpletuner.seeds import derive


@dataclass(frozen=True, slots=True)
class Moment:
    """When a caption is used."""

    draw: int
    """Any number: it decides which of the results is used."""
    step: int
    """Counted from 0."""
    total_steps: int


def varies(options: CaptionPipeline) -> bool:
    """Whether uses of the same caption may get different texts."""
    return options.enable_wildcard or _rearranges(options)


def results(caption: str, options: CaptionPipeline, seed: int) -> Iterator[str]:
    """Every text that any use of the caption can get; some may be equal, and one without any tags is empty.

    Args:
        caption: One caption of one image.
        options: The steps.
        seed: Where the draws come from: another one for each caption of each image.
    """
    framed = _framed(caption, options)
    count = _variants(framed, options)
    for variant in range(count):
        tags = _tags(_words(framed, options, derive(seed, "wildcards", variant)), options)
        for length in _stages(len(tags.flexible), options) if variant < _early(count) else ():
            yield _text(tags, length, options, derive(seed, "tags", variant, length))
        yield _text(tags, len(tags.flexible), options, derive(seed, "tags", variant))


def result(caption: str, options: CaptionPipeline, seed: int, moment: Moment) -> str:
    """The text for one use, always one of the `results` for the same caption, options and seed."""
    framed = _framed(caption, options)
    count = _variants(framed, options)
    warm_up = _warm_up_steps(options, moment.total_steps)
    variant = moment.draw % (_early(count) if moment.step < warm_up else count)
    tags = _tags(_words(framed, options, derive(seed, "wildcards", variant)), options)
    length = _length(len(tags.flexible), options, moment.step, warm_up)
    if length is None:
        return _text(tags, len(tags.flexible), options, derive(seed, "tags", variant))
    return _text(tags, length, options, derive(seed, "tags", variant, length))


@dataclass(frozen=True, slots=True)
class _Tags:
    """A caption cut up: the tags in the middle may move and go, those around them stay."""

    fixed: tuple[str, ...]
    flexible: tuple[str, ...]
    end: tuple[str, ...]
    whole: str | None = None
    """The caption as it is, when nothing cuts it."""


def _framed(caption: str, options: CaptionPipeline) -> str:
    return " ".join(part for part in (options.caption_prefix, caption, options.caption_suffix) if part)


def _variants(caption: str, options: CaptionPipeline) -> int:
    """How many results are made: one when nothing in this caption is drawn."""
    wildcards = options.enable_wildcard and "{" in caption
    draws = wildcards or options.shuffle_caption or options.caption_tag_dropout_rate > 0
    return options.variants if draws else 1


def _early(count: int) -> int:
    """Warm-up is short and has many lengths: a quarter of the results is enough for each of them."""
    return -(-count // 4)


def _words(caption: str, options: CaptionPipeline, seed: int) -> str:
    """The caption with one word for each {red|green|blue}; doubled braces stand for themselves."""
    if not options.enable_wildcard or not ("{" in caption or "}" in caption):
        return caption
    dice = Dice(seed)
    before, text = "", caption.replace("{{", _OPEN).replace("}}", _CLOSE)
    while text != before:  # from the inside out, since one choice may hold another
        before, text = text, _CHOICE.sub(lambda found: _one_of(found[1].split("|"), dice), text)
    return text.replace(_OPEN, "{").replace(_CLOSE, "}")


def _one_of(words: list[str], dice: Dice) -> str:
    return words[dice.place(len(words))]


def _rearranges(options: CaptionPipeline) -> bool:
    return options.shuffle_caption or options.token_warmup_step > 0 or options.caption_tag_dropout_rate > 0


def _tags(caption: str, options: CaptionPipeline) -> _Tags:
    """Cut where keep_tokens_separator or else keep_tokens says."""
    mark = options.keep_tokens_separator
    if mark and mark in caption:
        first, middle, *rest = caption.split(mark)
        return _Tags(
            _cut(first, options), _cut(middle, options), tuple(t for part in rest for t in _cut(part, options))
        )
    if not _rearranges(options):
        return _Tags((), (), (), whole=caption)
    tags = _cut(caption, options)
    return _Tags(tags[: options.keep_tokens], tags[options.keep_tokens :], ())


def _cut(text: str, options: CaptionPipeline) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(options.caption_separator) if tag.strip())


def _stages(flexible: int, options: CaptionPipeline) -> list[int]:
    """How many tags may move while they are warmed up: a few numbers from the first to just below all of them."""
    first = options.token_warmup_min
    if options.token_warmup_step <= 0 or flexible <= first:
        return []
    lengths = _reachable(first, flexible, options)
    return lengths if len(lengths) <= _STAGES else [lengths[place] for place in _thinned(len(lengths))]


def _reachable(first: int, flexible: int, options: CaptionPipeline) -> list[int]:
    """Every number below all of them that a step can ask for; a share of the run may be long enough for each."""
    steps = int(options.token_warmup_step) or flexible - first
    if steps >= flexible - first:
        return list(range(first, flexible))
    return [first + step * (flexible - first) // steps for step in range(steps)]


def _thinned(count: int) -> list[int]:
    return [place * count // _STAGES for place in range(_STAGES)]


def _warm_up_steps(options: CaptionPipeline, total_steps: int) -> int:
    given = options.token_warmup_step
    return int(given if given >= 1 else given * total_steps)


def _length(flexible: int, options: CaptionPipeline, step: int, warm_up: int) -> int | None:
    """How many tags may move at this step, rounded down to a stage; nothing when it is all of them."""
    stages = _stages(flexible, options) if step < warm_up else []
    if not stages:
        return None
    wanted = options.token_warmup_min + step * (flexible - options.token_warmup_min) // warm_up
    return stages[max(0, bisect_right(stages, wanted) - 1)]


def _text(tags: _Tags, length: int, options: CaptionPipeline, seed: int) -> str:
    """The tags in the order and number of one result."""
    flexible = _drawn(tags.flexible[:length], options, seed)
    text = tags.whole if tags.whole is not None else _JOINT.join((*tags.fixed, *flexible, *tags.end))
    mark = options.secondary_separator
    return text.replace(mark, options.caption_separator) if mark else text


def _drawn(tags: tuple[str, ...], options: CaptionPipeline, seed: int) -> tuple[str, ...]:
    rate = options.caption_tag_dropout_rate
    if not tags or not (options.shuffle_caption or rate > 0):
        return tags
    dice = Dice(seed)
    order = dice.order(len(tags)) if options.shuffle_caption else range(len(tags))
    return tuple(tags[place] for place in order if not rate or dice.share() >= rate)


_OPEN, _CLOSE = "\x00", "\x01"
_CHOICE = re.compile(r"\{([^{}]*)\}")
_JOINT = ", "
_STAGES = 8
