"""TREAD token routing around an unmodified diffusers transformer, by forward hooks.

While training, a random share of the image tokens skips a range of blocks: it is set aside on entry and put back,
unchanged, on exit (Krause et al. 2025, arXiv 2501.04765). It works because every block takes and returns the same
values. One set of tokens serves the whole micro-batch, because the rotary table has no batch axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# The order in which gradient checkpointing passes them; without it they come by name.
BLOCK_ARGUMENTS = ("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb", "joint_attention_kwargs")


@dataclass(frozen=True)
class Route:
    """Blocks `start` to `end`, both included; negative numbers count from behind."""

    start: int
    end: int
    ratio: float
    """Share of the image tokens that skips the blocks."""

    def span(self, count: int) -> range:
        """The block numbers of the route in a network of `count` blocks."""
        return range(self.start % count, self.end % count + 1)


class TokenRouter:
    """Routes tokens around ranges of blocks; idle outside `step`, so that validation sees every token."""

    def __init__(self, blocks: Sequence[nn.Module], routes: Sequence[Route]) -> None:
        self._generator: torch.Generator | None = None
        self._kept: dict[Route, Tensor] = {}
        self._aside: dict[Route, Tensor] = {}
        _check(routes, len(blocks))
        for route in routes:
            span = route.span(len(blocks))
            for number in span:
                blocks[number].register_forward_pre_hook(self._entry(route, number == span[0]), with_kwargs=True)
            blocks[span[-1]].register_forward_hook(self._exit(route))

    @contextmanager
    def step(self, generator: Callable[[], torch.Generator]) -> Iterator[None]:
        """Route everything inside the ``with`` along the same tokens: forward, backward and a teacher's pass.

        Args:
            generator: Makes the generator from which the tokens are drawn.
        """
        self._generator = generator()
        try:
            yield
        finally:
            self._generator = None
            self._kept.clear()
            self._aside.clear()

    def _entry(self, route: Route, is_first: bool) -> Callable[..., Any]:
        def enter(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if self._generator is None:
                return None
            given = {**dict(zip(BLOCK_ARGUMENTS, args, strict=False)), **kwargs}
            if is_first:
                given["hidden_states"] = self._set_aside(route, given["hidden_states"])
            text_length = given["encoder_hidden_states"].shape[1]
            given["image_rotary_emb"] = _rows(given["image_rotary_emb"], self._kept[route], text_length)
            return (), given

        return enter

    def _exit(self, route: Route) -> Callable[..., Any]:
        def leave(block: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> Any:
            if self._generator is None:
                return None
            text, image = output
            return text, self._aside[route].index_copy(1, self._kept[route], image)

        return leave

    def _set_aside(self, route: Route, image: Tensor) -> Tensor:
        if route not in self._kept:
            self._kept[route] = self._draw(image.shape[1], route.ratio).to(image.device)
        self._aside[route] = image
        return image[:, self._kept[route]]

    def _draw(self, count: int, ratio: float) -> Tensor:
        import torch

        order = torch.randperm(count, generator=self._generator)
        return order[: count - round(count * ratio)].sort().values


def _check(routes: Sequence[Route], count: int) -> None:
    """See that the blocks of the routes exist, and that no block lies on two routes."""
    taken: set[int] = set()
    for route in routes:
        for block in (route.start, route.end):
            if not -count <= block < count:
                raise ModelError(f"tread_config names block {block}, but the network has {count}: 0 to {count - 1}.")
        span = route.span(count)
        if not span:
            raise ModelError(f"tread_config has a route that ends at block {route.end}, before block {route.start}.")
        if taken & set(span):
            raise ModelError(
                f"tread_config has two routes through block {min(taken & set(span))}; let them not overlap."
            )
        taken |= set(span)


def _rows(tables: tuple[Tensor, Tensor], kept: Tensor, text_length: int) -> tuple[Tensor, Tensor]:
    """The rotary rows of all text tokens and of the kept image tokens."""
    import torch

    rows = torch.cat([torch.arange(text_length, device=kept.device), kept + text_length])
    cosine, sine = tables
    return cosine[rows], sine[rows]
