"""A network that is weaker on purpose for a moment, so that pictures can be guided away from what it would draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Skip:
    """Guidance away from the network without some of its blocks."""

    layers: tuple[int, ...]
    """Blocks by their place in the order in which they run, counted from 0."""
    scale: float = 2.8
    """How strongly; the values are those that Stability AI gives for Stable Diffusion 3.5."""
    start: float = 0.01
    """The share of the steps after which it begins."""
    stop: float = 0.2
    """The share of the steps after which it ends."""

    def acts(self, step: int, steps: int) -> bool:
        """Whether it acts in a step, counted from 0."""
        return self.start * steps < step < self.stop * steps


@contextmanager
def skipping(blocks: Sequence[nn.Module], layers: Sequence[int]) -> Iterator[None]:
    """A moment in which some blocks leave everything as it is; numbers that no block has are passed over."""
    with ExitStack() as hooks:
        for number in layers:
            if number < len(blocks):
                handle = blocks[number].register_forward_hook(_unchanged, with_kwargs=True)
                hooks.callback(handle.remove)
        yield


def _unchanged(block: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any], output: Any) -> Any:
    """What went in, in the order in which blocks of Flux give it back: the text first."""
    named = {**dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)), **given}
    return named["encoder_hidden_states"], named["hidden_states"]
