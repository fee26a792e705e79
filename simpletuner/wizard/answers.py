"""What the wizard wants to know, and what it suggests: tables and plain values, nothing is asked or written here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answers:
    """One answer for each question; an empty one means that the config says nothing about it."""

    pictures: str = ""
    """The folder with the pictures, as it was typed."""
    captions: str = ""
    """The caption strategy."""
    trigger: str = ""
    """The word that stands for what is learnt, when one prompt serves for all pictures."""
    family: str = "flux"
    """Nobody is asked for it: an existing config says it."""
    flavour: str = ""
    base: str = ""
    """A folder, a single file or a Hub id of one's own; it wins over the flavour, which gives what a file lacks."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Where other parts of the model are, by the options that name them."""
    card: str = ""
    """A name from CARDS; empty keeps the settings there are."""
    steps: int = 0
    epochs: float = 0
    """Set by a config that counts epochs: then steps are not asked for."""
    prompts: tuple[str, ...] = ()
    name: str = ""
    output: str = ""
    publish: bool = False
    repository: str = ""


@dataclass(frozen=True)
class Card:
    """What suits a graphics card with so much memory, and why."""

    title: str
    precision: str
    text_precision: str
    optimizer: str
    resolution: int
    batch_size: int
    reasons: tuple[str, ...]
    gradient_checkpointing: bool = True


_EIGHT_BIT = "bnb-adamw8bit keeps the optimizer's notes in 8 bits"
_RECOMPUTE = "gradient checkpointing takes half as long again and saves 11 GB and more"
_SMALL_T5 = "the text encoder in 8 bits: in 16 it alone needs 10 GB"

CARDS: Mapping[str, Card] = {
    "8": Card(
        "8 GB",
        precision="nf4-bnb",
        text_precision="int8-quanto",
        optimizer="bnb-adamw8bit",
        resolution=512,
        batch_size=1,
        reasons=(
            "FLUX.1 in 4 bits has been seen to need 9 GB at 512 px: on 8 GB it may well not fit",
            _SMALL_T5,
            _EIGHT_BIT,
            _RECOMPUTE,
        ),
    ),
    "12": Card(
        "12 GB",
        precision="nf4-bnb",
        text_precision="int8-quanto",
        optimizer="bnb-adamw8bit",
        resolution=512,
        batch_size=1,
        reasons=(
            "FLUX.1 in 4 bits needs 9 to 10.5 GB at 512 px, and more than 12 at 1024",
            _SMALL_T5,
            _EIGHT_BIT,
            _RECOMPUTE,
        ),
    ),
    "16": Card(
        "16 GB",
        precision="nf4-bnb",
        text_precision="no_change",
        optimizer="bnb-adamw8bit",
        resolution=768,
        batch_size=1,
        reasons=(
            "FLUX.1 in 4 bits; in 8 bits it would need more than 16 GB",
            "768 px leaves room: at 1024, 4 bits have been seen to need 13 GB and more",
            _EIGHT_BIT,
            _RECOMPUTE,
        ),
    ),
    "24": Card(
        "24 GB",
        precision="int8-quanto",
        text_precision="no_change",
        optimizer="adamw_bf16",
        resolution=1024,
        batch_size=1,
        reasons=("FLUX.1 in 8 bits needs 18 to 19 GB at 1024 px; in 16 bits more than 30", _RECOMPUTE),
    ),
    "48": Card(
        "48 GB or more",
        precision="no_change",
        text_precision="no_change",
        optimizer="adamw_bf16",
        resolution=1024,
        batch_size=2,
        reasons=("FLUX.1 as it is, in 16 bits: a little over 30 GB at 1024 px", _RECOMPUTE),
    ),
    "cpu": Card(
        "none: train on the CPU",
        precision="int8-quanto",
        text_precision="no_change",
        optimizer="adamw_bf16",
        resolution=512,
        batch_size=1,
        reasons=("for trying things out: a step of FLUX.1 takes minutes on a CPU", "8 bits halve the main memory"),
    ),
}
"""Memory of the graphics card, and what follows from it; the numbers are published measurements."""

OWN_PROMPT = "instanceprompt"
CAPTION_FILES = "textfile"
FILE_NAMES = "filename"

_STEPS_PER_PICTURE = 100
_FEWEST, _MOST = 1000, 4000


def suggested_steps(pictures: int, batch_size: int) -> int:
    """Enough to see each picture about a hundred times, within what is usual for a LoRA; in whole fifties."""
    samples = min(max(pictures * _STEPS_PER_PICTURE, _FEWEST), _MOST)
    return math.ceil(samples / batch_size / 50) * 50


def suggested_prompts(trigger: str, captions: Sequence[str]) -> tuple[str, ...]:
    """Three prompts with the trigger word, or the first captions when there is none."""
    if trigger:
        return (f"a photo of {trigger}", f"{trigger} on a beach at sunset", f"a pencil drawing of {trigger}")
    return tuple(captions[:2]) or ("a photo of a lighthouse",)


def suggested_name(answers: Answers) -> str:
    """The trigger word or the folder's name, fit for a file name."""
    folder = answers.pictures.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return slug(answers.trigger) or slug(folder) or "my-lora"


def slug(text: str, words: int = 4) -> str:
    """The first words of a text, with only letters and digits in them: fit for a file name."""
    return "-".join(re.findall(r"\w+", text.lower())[:words])


def refused_repository(text: str) -> str | None:
    """What is wrong with the id of a repository on the Hub, if anything."""
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text.strip(), flags=re.ASCII):
        return None
    return "An id looks like you/my-lora."
