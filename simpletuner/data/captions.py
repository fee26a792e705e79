"""What is said about each image: from file names, text files or one prompt for all, always in one canonical spelling.

The text that is encoded beforehand and the text that training looks up come from the same function, so they are equal.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from simpletuner.data.sections import CaptionPipeline, CaptionShuffle
from simpletuner.schema import Choice


@dataclass(frozen=True)
class Rules:
    """Where one data set finds its captions, and what is added to them."""

    strategy: str = "filename"
    instance_prompts: tuple[str, ...] = ()
    prepend_instance_prompt: bool = False
    only_instance_prompt: bool = False
    disable_multiline_split: bool = False
    extension: str = ".txt"
    fallback: str = ""
    """The caption of images without any."""
    shuffle: CaptionShuffle | None = None
    pipeline: CaptionPipeline | None = None
    filters: tuple[str, ...] = ()
    """What is taken out of captions, entry by entry, as in caption_filter_list."""
    dropout: float = 0.0
    """The share of uses without a caption."""
    seed: int = 0
    """Where shuffles and other variants come from."""

    @property
    def reads_text_files(self) -> bool:
        """Whether a caption file is needed beside each image."""
        return self.strategy == "textfile" and not self.only_instance_prompt


@dataclass(frozen=True)
class Use:
    """One use of one image in training."""

    sample: int
    """Counts all samples since the beginning; the same on any number of processes."""
    epoch: int
    """Counted from 1."""
    step: int
    """Counted from 0."""
    total_steps: int


def alternatives(key: str, text: str | None, rules: Rules) -> tuple[str, ...]:
    """All captions of an image, of which each use draws one; none when there is nothing to say about it.

    Args:
        key: The image's path inside its data set.
        text: The content of its caption file, if it has one.
        rules: How the data set makes captions.
    """
    prompts = tuple(canonical(prompt) for prompt in rules.instance_prompts)
    if rules.only_instance_prompt:
        return _without_blanks(prompts)
    found = _without_blanks(canonical(caption) for caption in CAPTION_STRATEGIES[rules.strategy](key, text, rules))
    if rules.prepend_instance_prompt:
        return tuple(f"{prompt} {caption}" for prompt in prompts for caption in found)
    return found


def canonical(text: str) -> str:
    """The one spelling of a caption: no byte order mark, Unix line ends, no blanks at line ends, composed letters."""
    plain = unicodedata.normalize("NFC", text.lstrip("\ufeff"))
    return "\n".join(line.rstrip() for line in plain.splitlines()).strip()


def decode_text(data: bytes) -> str:
    """The text of a caption file: UTF-8, UTF-16 with its mark, or else the Windows alphabet."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _without_blanks(captions: Iterable[str]) -> tuple[str, ...]:
    return tuple(caption for caption in captions if caption)


def from_filename(key: str, text: str | None, rules: Rules) -> tuple[str, ...]:
    """The name of the image file, with spaces for underscores."""
    return (PurePosixPath(key).stem.replace("_", " "),)


def from_text_file(key: str, text: str | None, rules: Rules) -> tuple[str, ...]:
    """The .txt file of the same name beside the image; each line is an alternative."""
    if text is None:
        return ()
    return (text,) if rules.disable_multiline_split else tuple(text.splitlines())


def from_instance_prompt(key: str, text: str | None, rules: Rules) -> tuple[str, ...]:
    """The instance_prompt, the same for all images."""
    return rules.instance_prompts


Strategy = Callable[[str, str | None, Rules], tuple[str, ...]]

CAPTION_STRATEGIES: Choice[Strategy] = Choice(
    "caption strategy",
    {
        "filename": from_filename,
        "textfile": from_text_file,
        "instanceprompt": from_instance_prompt,
        "instance_prompt": from_instance_prompt,
    },
    later={
        "csv": "write each caption into a .txt file beside its image and use textfile",
        "parquet": "write each caption into a .txt file beside its image and use textfile",
        "huggingface": "save the images to a folder with .txt files and use textfile",
        "webshart": "unpack the images to a folder with .txt files and use textfile",
    },
)
