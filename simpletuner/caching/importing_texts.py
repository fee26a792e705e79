"""Taking over captions that SimpleTuner and sd-scripts have encoded, where it can be shown that they still fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.caching import old
from simpletuner.caching.images import Pictures
from simpletuner.caching.importing import Imported, Way, refuse_older
from simpletuner.caching.old import OldText, Refused
from simpletuner.caching.prompts import PromptCache
from simpletuner.data.items import Record

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TextShape:
    """What embeddings must look like to fit the model."""

    tokens: int = 512
    width: int = 4096
    pooled: int = 768
    is_padding_zero: bool = False
    """Whether what T5 answers behind the end of a prompt is set to zero."""

    def conditioning(self, text: OldText) -> dict[str, Tensor]:
        """The tensors as we keep them; Refused when they are of another size."""
        import torch

        shapes = (tuple(text.tokens.shape), tuple(text.pooled.shape), tuple(text.mask.shape))
        if shapes != ((self.tokens, self.width), (self.pooled,), (self.tokens,)):
            raise Refused(f"it is not of {self.tokens} tokens for FLUX.1")
        if not (torch.isfinite(text.tokens).all() and torch.isfinite(text.pooled).all()):
            raise Refused("it holds numbers that are not finite")
        tokens = text.tokens.to(torch.bfloat16)
        if self.is_padding_zero:
            tokens = torch.where(text.mask[:, None], tokens, tokens.new_zeros(()))
        return {
            "prompt_embeds": tokens,
            "pooled_prompt_embeds": text.pooled.to(torch.bfloat16),
            "prompt_mask": text.mask,
        }


def import_texts(
    folder: Path,
    datasets: Sequence[Pictures],
    prompts: PromptCache,
    shape: TextShape,
    advance: Callable[[int], None],
) -> Imported:
    """Take over encoded captions whose entries are missing.

    Args:
        folder: With the files of the old cache, or with images that sd-scripts has put its files beside; only read.
        datasets: The data sets of the run.
        prompts: Where they go; filled before.
        shape: What embeddings must look like.
        advance: Called with the number of captions that were looked at.
    """
    found, shown = Imported(), _by_caption(datasets)
    for prompt in prompts.missing():
        taken = found.first(_ways(folder, prompt, shown.get(prompt, ()), shape))
        if taken is not None:
            prompts.put(prompt, taken)
        advance(1)
    return found


def _ways(
    folder: Path, prompt: str, images: Sequence[tuple[Pictures, Record]], shape: TextShape
) -> Iterator[Way[dict[str, Tensor]]]:
    path = old.simpletuner_text(folder, prompt)
    yield Way("captions of SimpleTuner", path, partial(_simpletuner, path, prompt, shape))
    for dataset, record in images:
        way = partial(_kohya, old.kohya_text(folder, record.key), dataset, record, shape)
        yield Way("captions of sd-scripts", old.kohya_text(folder, record.key), way)


def _simpletuner(path: Path, prompt: str, shape: TextShape) -> dict[str, Tensor]:
    # Validation prompts are kept under their short names there, and may have taken the place of a caption.
    if len(prompt.split()) == 1:
        raise Refused("a caption of one word may have been overwritten by a validation prompt of this name")
    return shape.conditioning(old.read_simpletuner_text(path))


def _kohya(path: Path, dataset: Pictures, record: Record, shape: TextShape) -> dict[str, Tensor]:
    if len(record.captions) > 1:
        raise Refused("which of the captions of the image it stands for is not known")
    image = Path(dataset.source.name(record.key))
    files = [one for one in image.parent.glob(f"{escape(image.stem)}.*") if one.suffix in _CAPTIONS]
    if len(files) != 1:
        raise Refused("the image has no caption file of its own, or several")
    refuse_older(path, files[0], "the caption")
    return shape.conditioning(old.read_kohya_text(path))


def _by_caption(datasets: Sequence[Pictures]) -> Mapping[str, list[tuple[Pictures, Record]]]:
    found: dict[str, list[tuple[Pictures, Record]]] = {}
    for dataset in datasets:
        for record in dataset.records:
            for caption in record.captions:
                found.setdefault(caption, []).append((dataset, record))
    return found


_CAPTIONS = frozenset({".txt", ".caption"})
