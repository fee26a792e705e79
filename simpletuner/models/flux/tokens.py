"""How many tokens FLUX.1's text encoders make of a caption, counted with the tokenizers of the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from simpletuner.errors import ModelError
from simpletuner.models.flux.loading import load_tokenizers
from simpletuner.models.sources import is_folder

if TYPE_CHECKING:
    from simpletuner.models.family import Weights

TOKENIZERS = ("tokenizer", "tokenizer_2")
"""The folders of the tokenizers of CLIP and of T5."""


def open_counters(
    weights: Weights, max_length: int | None
) -> tuple[Callable[[Sequence[str]], list[tuple[int, int]]], tuple[int, int]]:
    """What counts the tokens of texts, for CLIP and for T5, and how many tokens each of them reads.

    Only files on this machine are used: looking at data must not begin with a download.

    Args:
        weights: Where the model is.
        max_length: How many tokens of T5 count, where the config says so.

    Raises:
        ModelError: The tokenizers are not on this machine, or cannot be used.
    """
    try:
        clip, t5 = load_tokenizers(weights.base, weights.revision, only_local=True)
    except (OSError, ValueError) as error:
        raise ModelError(_missing(weights.base)) from error

    def count(texts: Sequence[str]) -> list[tuple[int, int]]:
        # Not `verbose`: a caption above the limit is what is looked for, not something to warn of.
        found = [tokenizer(list(texts), verbose=False)["input_ids"] for tokenizer in (clip, t5)]
        return [(len(one), len(other)) for one, other in zip(*found, strict=True)]

    return count, (clip.model_max_length, max_length or t5.model_max_length)


def _missing(source: str) -> str:
    if is_folder(source):
        folders = " and ".join(TOKENIZERS)
        return f"there are no tokenizers that can be used in {source}. It should have the folders {folders}."
    return f"the tokenizers of '{source}' are not on this machine yet. They come with the weights, at the first run."
