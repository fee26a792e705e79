"""Encoders and pictures for tests of the caches: so simple that every result can be told in advance."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simpletuner.data.images import Unreadable
from simpletuner.data.items import Placement, Record, Size


@dataclass(frozen=True)
class Shelf:
    """A source that only knows the names of its pictures."""

    lanes: int = 1

    def name(self, key: str) -> str:
        """Where a picture would be."""
        return f"/shelf/{key}"


@dataclass(frozen=True)
class Shades:
    """A data set of grey pictures; each is as bright as its number."""

    id: str
    records: Sequence[Record]
    broken: frozenset[str] = frozenset()
    source: Any = Shelf()

    def pictures(self) -> Sequence[Record]:
        """None of them is mirrored."""
        return self.records

    def pixels(self, record: Record) -> NDArray[np.float32]:
        """One shade of grey in the size of the bucket."""
        if record.key in self.broken:
            raise Unreadable(f"{self.source.name(record.key)}: it is damaged")
        shade = int(record.key.partition(".")[0]) if record.key[0].isdigit() else 0
        width, height = record.placement.bucket
        return np.full((height, width, 3), shade, dtype=np.float32)


def shades(id: str, numbers: Sequence[int], *, edge: int = 64, crop: int = 0, broken: Sequence[int] = ()) -> Shades:
    """Pictures with these numbers, all of one size."""
    size = Size(edge, edge)
    placement = Placement(Size(edge + crop, edge + crop), (crop, 0), size)
    records = [Record(f"{number}.png", "1", f"digest {number}", size, placement, ("a",)) for number in numbers]
    return Shades(id, records, frozenset(f"{number}.png" for number in broken))


@dataclass
class Encoded:
    """Mean and deviation."""

    mean: torch.Tensor
    std: torch.Tensor


@dataclass
class Averages:
    """Encodes a picture as its brightness, and remembers how often it was opened and how many pictures it saw."""

    seen: list[int] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    seconds: float = 0.0

    @contextmanager
    def __call__(self) -> Iterator[Averages]:
        """Open it."""
        self.opened += 1
        yield self
        self.closed += 1

    def encode(self, pixels: torch.Tensor) -> Encoded:
        """Four channels of brightness, an eighth of the size."""
        assert threading.current_thread() is threading.main_thread() or self.opened
        time.sleep(self.seconds)
        self.seen.append(len(pixels))
        mean = torch.nn.functional.avg_pool2d(pixels, 8).mean(1, keepdim=True).repeat(1, 4, 1, 1)
        return Encoded(mean, torch.full_like(mean, 0.5))


def brightness(latents: torch.Tensor) -> int:
    """The number of the picture that was encoded so."""
    return round((float(latents.mean()) + 1) * 127.5)


@dataclass
class Lengths:
    """Encodes a prompt as its length, and remembers how often it was opened and what it saw."""

    seen: list[list[str]] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    @contextmanager
    def __call__(self):
        """Open it."""
        self.opened += 1
        yield self.encode
        self.closed += 1

    def encode(self, prompts):
        """One number for each."""
        self.seen.append(list(prompts))
        return [{"length": torch.tensor(len(prompt))} for prompt in prompts]
