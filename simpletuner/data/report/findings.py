"""What should be looked at before training, in order of weight, each with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from simpletuner.data.report.alike import Alike, Shared
from simpletuner.data.report.facts import BLURRED, MUCH, Facts
from simpletuner.data.report.wording import Wording


@dataclass(frozen=True)
class Finding:
    """One thing to look at."""

    weight: str
    """A name of `WEIGHTS`."""
    what: str
    advice: str
    about: str = ""
    """The part of the data set's report that shows it: images, buckets, alike or captions."""


@dataclass(frozen=True)
class Part:
    """Everything that was found out about one data set."""

    facts: Facts
    wording: Wording
    alike: tuple[Alike, ...]
    damaged: tuple[tuple[str, str], ...]
    was_looked_at: bool
    """Whether images were opened, so that it is known which ones are alike or damaged."""

    @property
    def surplus(self) -> int:
        """How many images look like another one that is kept."""
        return sum(len(group.records) - 1 for group in self.alike)


def findings(part: Part) -> tuple[Finding, ...]:
    """What to look at in one data set, the most serious first."""
    found = [finding for rule in _RULES for finding in rule(part)]
    return tuple(sorted(found, key=lambda finding: WEIGHTS.index(finding.weight)))


def shared_findings(shared: Sequence[Shared]) -> tuple[Finding, ...]:
    """What to look at between data sets."""
    return tuple(_shared(one) for one in shared)


def _shared(one: Shared) -> Finding:
    first, second = one.ids
    what = f"{_are(one.count, 'image')} in both '{first}' and '{second}'"
    if one.is_evaluation:
        return Finding("serious", what, "Take them out of one: what was learned by heart is no measure.")
    return Finding("notable", what, "They are learned twice; take them out of one unless you want that.")


def _damaged(part: Part) -> Iterator[Finding]:
    if part.damaged:
        what = f"{_count(len(part.damaged), 'image')} cannot be decoded"
        yield Finding("serious", what, "Training would leave them out. Save them again, or fetch them again.", "images")


def _left_out(part: Part) -> Iterator[Finding]:
    facts = part.facts
    for group in facts.left:
        share = group.count / (facts.images + facts.left_out)
        weight = "serious" if share > 0.5 else "notable"
        what = f"{_are(group.count, 'file')} left out: {group.reason}"
        yield Finding(weight, what, _left_advice(group.reason), "left")


def _left_advice(reason: str) -> str:
    named = next((name for name in _LIMITS if name in reason), None)
    return f"Change {named}, or take the files away." if named else "Save them as PNG or JPEG, or take them away."


def _captions(part: Part) -> Iterator[Finding]:
    for odd in part.wording.odd:
        if odd.kind == "very long" and part.wording.tokens is not None:
            continue  # what is too long is known exactly
        weight = "serious" if odd.is_serious else "notable"
        what = f"captions of {_count(odd.count, 'image')}: {odd.kind}"
        yield Finding(weight, what, odd.meaning, "captions")


def _tokens(part: Part) -> Iterator[Finding]:
    tokens = part.wording.tokens
    if tokens is None:
        return
    if tokens.cut[1]:
        what = f"{_are(tokens.cut[1], 'caption')} longer than the {tokens.limits[1]} tokens that T5 reads"
        remedy = "Shorten them, or raise tokenizer_max_length." if tokens.limits[1] < _MOST_TOKENS else "Shorten them."
        advice = f"Their ends are never seen. {remedy}"
        yield Finding("serious", what, advice, "captions")
    if tokens.cut[0]:
        what = f"{_are(tokens.cut[0], 'caption')} longer than the {tokens.limits[0]} tokens that CLIP reads"
        advice = "T5 reads the rest. Begin captions with what matters most."
        yield Finding("minor", what, advice, "captions")


def _alike(part: Part) -> Iterator[Finding]:
    if part.alike:
        verb = "looks" if part.surplus == 1 else "look"
        what = f"{_count(part.surplus, 'image')} {verb} like another one, in {_count(len(part.alike), 'group')}"
        advice = "What is there several times is learned by heart. Keep the best of each group."
        weight = "serious" if part.surplus > 0.2 * part.facts.images else "notable"
        yield Finding(weight, what, advice, "alike")


def _cropped(part: Part) -> Iterator[Finding]:
    facts = part.facts
    if facts.cropped_much:
        verb = "loses" if facts.cropped_much == 1 else "lose"
        what = f"{_count(facts.cropped_much, 'image')} {verb} more than {MUCH:.0%} of the picture by cropping"
        advice = "Look at the thumbnails. With crop false, images keep their shape."
        yield Finding("notable", what, advice, "buckets")


def _enlarged(part: Part) -> Iterator[Finding]:
    facts = part.facts
    if facts.enlarged:
        what = f"{_are(facts.enlarged, 'image')} enlarged to more than {BLURRED:.0%}, up to {facts.most_enlarged:.0%}"
        advice = "The model learns soft pictures from them. Lower resolution, or set max_upscale_threshold."
        yield Finding("notable", what, advice, "images")


def _small_buckets(part: Part) -> Iterator[Finding]:
    facts = part.facts
    small = facts.small_buckets
    if small:
        hold = "holds" if len(small) == 1 else "hold"
        what = f"{_count(len(small), 'bucket')} of {len(facts.buckets)} {hold} less than a batch of {facts.batch_size}"
        advice = "Their images are repeated to fill it, so they count more. Lower aspect_bucket_rounding to 1, or crop."
        yield Finding("minor", what, advice, "buckets")


def _are(count: int, noun: str) -> str:
    return f"{_count(count, noun)} {'is' if count == 1 else 'are'}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


WEIGHTS = ("serious", "notable", "minor")

_MOST_TOKENS = 512

_LIMITS = ("minimum_image_size", "minimum_aspect_ratio", "maximum_aspect_ratio", "max_upscale_threshold")

_RULES: tuple[Callable[[Part], Iterator[Finding]], ...] = (
    _damaged,
    _left_out,
    _captions,
    _tokens,
    _alike,
    _cropped,
    _enlarged,
    _small_buckets,
)
