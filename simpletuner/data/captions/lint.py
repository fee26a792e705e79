"""What is odd about captions, in words for whoever wrote them, and what the captions of a data set look like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from simpletuner.data.captions import CAPTION_STRATEGIES, Rules, from_filename, from_instance_prompt, stated
from simpletuner.data.captions.spelling import canonical
from simpletuner.schema import words


@dataclass(frozen=True, slots=True)
class Captioned:
    """One image and everything said about it."""

    key: str
    texts: tuple[str, ...] | None
    """The content of its caption file, or what its source says about it."""
    alternatives: tuple[str, ...]
    """All texts that training can use."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One odd thing about the captions of one image or, for duplicates, of several."""

    kind: str
    """One of `KINDS`."""
    keys: tuple[str, ...]
    what: str
    """The words that look odd, or the whole caption if it is short."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A caption with more tokens than a text encoder reads; what is beyond is cut off."""

    text: str
    tokens: tuple[int, int]
    """As CLIP and as T5 count them."""
    limits: tuple[int, int]
    """How many they read."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the captions of a data set look like."""

    images: int
    captions: int
    """As they were written, before variants are made of them."""
    distinct: int
    texts: int
    """How many different texts training can use."""
    mean_words: float
    most_words: int
    tags: tuple[tuple[str, int], ...]
    """The most frequent parts between commas, with the number of captions they stand in."""


def lint(images: Iterable[Captioned], rules: Rules) -> tuple[Finding, ...]:
    """Everything odd: image by image, then captions that several images share.

    Args:
        images: The images of one data set.
        rules: How the data set makes captions.
    """
    found: list[Finding] = []
    owners: dict[str, list[str]] = {}
    for image in images:
        captions = _own(image, rules)
        found += (Finding(kind, (image.key,), what) for kind, what in _oddities(image, captions, rules))
        for caption in captions:
            owners.setdefault(caption, []).append(image.key)
    if not _is_shared(rules):
        found += _duplicates(owners)
    return tuple(found)


def too_long(
    texts: Iterable[str], count_tokens: Callable[[str], tuple[int, int]], limits: tuple[int, int]
) -> tuple[TooLong, ...]:
    """The texts that a text encoder would cut off.

    Args:
        texts: What will be encoded.
        count_tokens: How many tokens CLIP and T5 make of a text.
        limits: How many tokens they read.
    """
    counted = ((text, count_tokens(text)) for text in dict.fromkeys(texts))
    return tuple(TooLong(text, (a, b), limits) for text, (a, b) in counted if a > limits[0] or b > limits[1])


def statistics(images: Iterable[Captioned], rules: Rules, *, most: int = 30) -> Statistics:
    """Count what the images of one data set are said to show; `most` tags are listed."""
    count, lengths, tags = 0, Counter[int](), Counter[str]()
    distinct, texts = set[str](), set[str]()
    for image in images:
        count += 1
        texts.update(image.alternatives)
        for caption in stated(image.key, image.texts, rules):
            distinct.add(caption)
            lengths[len(caption.split())] += 1
            tags.update(_tags(caption))
    captions = lengths.total()
    mean = sum(length * number for length, number in lengths.items()) / captions if captions else 0.0
    listed = sorted(tags.items(), key=lambda entry: (-entry[1], entry[0]))[:most]
    return Statistics(count, captions, len(distinct), len(texts), mean, max(lengths, default=0), tuple(listed))


def _own(image: Captioned, rules: Rules) -> tuple[str, ...]:
    """What is said about this very image: the fallback of the data set is not."""
    return () if _needs_texts(rules) and _silence(image) else stated(image.key, image.texts, rules)


def _needs_texts(rules: Rules) -> bool:
    return not _is_shared(rules) and CAPTION_STRATEGIES[rules.strategy] is not from_filename


def _is_shared(rules: Rules) -> bool:
    """Whether all images have the same captions on purpose."""
    return rules.only_instance_prompt or CAPTION_STRATEGIES[rules.strategy] is from_instance_prompt


def _silence(image: Captioned) -> str:
    if not image.texts:
        return "missing"
    return "" if any(canonical(text) for text in image.texts) else "empty"


def _oddities(image: Captioned, captions: Sequence[str], rules: Rules) -> Iterator[tuple[str, str]]:
    if _needs_texts(rules) and (silence := _silence(image)):
        yield silence, rules.fallback
    elif image.alternatives == ("",):
        yield "nothing left", _short(captions[0]) if captions else ""
    named = CAPTION_STRATEGIES[rules.strategy] is from_filename and not rules.only_instance_prompt
    for caption in captions:
        if named and _MEANINGLESS.fullmatch(caption):
            yield "file name", caption
        if not _is_shared(rules):
            yield from _suspicions(caption)
            yield from _braces(caption, rules)


def _suspicions(caption: str) -> Iterator[tuple[str, str]]:
    if garbled := _garbled(caption):
        yield "wrong alphabet", garbled
    if found := _CONTROL.search(caption):
        yield "no text", repr(found[0])
    for kind, pattern in _PATTERNS.items():
        if match := pattern.search(caption):
            yield kind, match[0]
    if len(caption) > _MANY_WORDS and len(caption.split()) > _MANY_WORDS:
        yield "very long", f"{len(caption.split())} words"


def _garbled(caption: str) -> str:
    """Letters that come from reading UTF-8 as another alphabet: read back and forth, they make sense."""
    if caption.isascii():
        return ""
    return next((run for run in _FOREIGN.findall(caption) if "\ufffd" in run or _was_utf8(run)), "")


def _was_utf8(run: str) -> bool:
    try:
        # Python's table of the Windows alphabet has five holes; whoever wrote the text filled them like Latin-1.
        data = b"".join(letter.encode("latin-1" if ord(letter) < 0xA0 else "cp1252") for letter in run)
        return len(data.decode("utf-8")) < len(run)
    except UnicodeError:
        return False


def _braces(caption: str, rules: Rules) -> Iterator[tuple[str, str]]:
    plain = caption.replace("{{", "").replace("}}", "")
    wildcards = rules.pipeline is not None and rules.pipeline.enable_wildcard
    if wildcards and plain.count("{") != plain.count("}"):
        yield "open brace", _short(caption)


def _duplicates(owners: dict[str, list[str]]) -> Iterator[Finding]:
    for caption, keys in owners.items():
        different = tuple(dict.fromkeys(keys))
        if len(different) > 1:
            yield Finding("duplicate", different, _short(caption))


def _tags(caption: str) -> set[str]:
    return {tag for part in caption.split(",") if (tag := part.strip().lower())}


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1].rstrip() + "…"


KINDS = words(
    "kind of finding",
    {
        "missing": "There is no caption for this image.",
        "empty": "There is a caption, but nothing is in it.",
        "nothing left": "The filters take everything out of this caption.",
        "duplicate": "Several images have the same caption, so the model cannot learn what tells them apart.",
        "file name": "The name of the file says nothing about the image; give it a name that does, or a caption file.",
        "wrong alphabet": "Letters were garbled when the caption was saved; save it again as UTF-8.",
        "no text": "There are characters in it that no program writes into a text; look whether it is one.",
        "markup": "Tags of a web page are part of the caption; FLUX would learn them as words.",
        "prompt syntax": "Weights and LoRA names are part of the caption; FLUX reads them as words.",
        "address": "The address of a web page is part of the caption.",
        "refusal": "The program that wrote the caption talks about itself instead of the image.",
        "very long": "The caption is so long that its end is likely to be cut off.",
        "open brace": "A { without its } stays in the caption as it is.",
    },
)

_PATTERNS = {
    "markup": re.compile(
        r"</?(a|b|br|div|em|font|h[1-6]|i|img|li|p|span|strong|table|td|tr|u|ul)(\s[^<>]*)?/?>|<!--"
        r"|&(amp|lt|gt|quot|apos|nbsp|#\d+);",
        re.IGNORECASE,
    ),
    "prompt syntax": re.compile(r"<(lora|lyco|hypernet):[^<>]*>|\([^()]*:\d+(\.\d+)?\)", re.IGNORECASE),
    "address": re.compile(r"(https?://|www\.)\S+", re.IGNORECASE),
    "refusal": re.compile(
        r"\bas an ai\b|\bi(['\u2019]m| am) (sorry|unable)\b"
        r"|\bi (cannot|can['\u2019]t) (see|help|describe|assist|view)\b",
        re.IGNORECASE,
    ),
}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MEANINGLESS = re.compile(
    r"((img|dsc[nf]?|pxl|mvimg|image|photo|picture|screenshot|untitled|download|unnamed)?[\s\d().-]*|[0-9a-f-]{16,})",
    re.IGNORECASE,
)
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_MANY_WORDS = 300
_SHOWN = 120
