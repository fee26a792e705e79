"""What comes along for single files, which hold weights alone: configs, tokenizers and noise levels of FLUX.1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5Tokenizer

CONFIGS = Path(__file__).parent / "configs"
"""In diffusers layout, without weights."""

_FIRST_LETTERS = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
"""Bytes that stand for themselves in CLIP's vocabulary."""


def config(part: str) -> dict[str, Any]:
    """The config of one part, such as ``text_encoder``."""
    found: dict[str, Any] = json.loads((CONFIGS / part / "config.json").read_text())
    return found


def scheduler_folder(*, takes_guidance: bool) -> Path:
    """The folder above ``scheduler``; the distilled model without guidance is schnell, with noise levels of its own."""
    return CONFIGS if takes_guidance else CONFIGS / "schnell"


def tokenizers() -> tuple[CLIPTokenizer, T5Tokenizer]:
    """Those that FLUX.1 was trained with, for CLIP and for T5."""
    from transformers import CLIPTokenizer, T5Tokenizer

    merges = _merges()
    clip = CLIPTokenizer(vocab=_vocabulary(merges), merges=merges, model_max_length=77)
    t5 = T5Tokenizer.from_pretrained(CONFIGS / "tokenizer_2", model_max_length=512)
    return clip, t5


def _merges() -> list[tuple[str, str]]:
    lines = (CONFIGS / "tokenizer" / "merges.txt").read_text(encoding="utf-8").splitlines()
    return [(first, second) for first, _, second in (line.partition(" ") for line in lines[1:] if line)]


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """CLIP numbers the bytes, the bytes at the end of a word, what is merged, and then the two marks."""
    letters = [chr(code) for code in _FIRST_LETTERS]
    letters += [chr(256 + number) for number in range(256 - len(letters))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
