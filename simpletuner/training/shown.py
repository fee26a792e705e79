"""What validation shows a model besides the prompt: the picture that belongs to the first image of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from simpletuner.caching.images import batch, pixels
from simpletuner.data.dataset import Condition
from simpletuner.data.geometry import centered
from simpletuner.data.items import Record, Size
from simpletuner.models.references import name
from simpletuner.training import channels, references
from simpletuner.training.references import Example, Latents

if TYPE_CHECKING:
    from torch import Tensor

    from simpletuner.models.family import LatentCodec

SCALE = 8
"""How many pixels wide and high one latent is."""


@dataclass(frozen=True)
class Shown:
    """The pictures of one image, in the size in which something is drawn."""

    example: Example | None
    latents: Latents
    codec: Callable[[], AbstractContextManager[LatentCodec]]
    is_followed: bool = False
    """Whether references lie pixel by pixel over what is drawn, and so must be as large."""
    _known: dict[Size, Mapping[str, Tensor]] = field(default_factory=dict, init=False)

    def __call__(self, height: int, width: int) -> Mapping[str, Tensor]:
        """The references for latents of this height and width, with a batch axis of one."""
        if self.example is None:
            return {}
        if not (self.is_followed or self.example.overlay is not None):
            return references.of_image(self.example.dataset, 0, self.latents)
        size = Size(width * SCALE, height * SCALE)
        if size not in self._known:
            self._known[size] = self._encoded(self.example, size)
        return self._known[size]

    def _encoded(self, example: Example, size: Size) -> Mapping[str, Tensor]:
        """What lies pixel by pixel over the image is cut to the size of what is drawn."""
        found: dict[str, Tensor] = {}
        with self.codec() as codec:
            for number, one in enumerate(example.pictures):
                found[name(number)] = codec.encode(batch([pixels(one.dataset, _placed(one, size))])).mean
            if example.overlay is not None:
                record, other = _placed(example.overlay, size), example.overlay.dataset
                latents = codec.encode(batch([pixels(other, record)])).mean
                found |= channels.of_records(other, [record], list(latents))
        return found


def _placed(condition: Condition, size: Size) -> Record:
    """The first picture, cut to a size."""
    record = condition.dataset.records.at(0)
    return replace(record, placement=centered(record.size, size))
