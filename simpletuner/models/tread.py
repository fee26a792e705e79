"""TREAD token routing around an unmodified diffusers transformer, by forward hooks.

While training, a random share of the image tokens skips a range of blocks: it is set aside on entry and put back,
unchanged, on exit (Krause et al. 2025, arXiv 2501.04765). It works because every block takes and returns the same
values. One set of tokens serves the whole micro-batch, because the rotary table has no batch axis.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PATCH = 2
"""A token is a square of latents with this edge."""


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


@dataclass(frozen=True)
class Crossing:
    """The tokens of one micro-batch on one route."""

    image: Tensor
    """All of them as they came to the route, with shape (batch, tokens, width)."""
    kept: Tensor
    """The numbers of those that go through the blocks."""
    text_length: int

    @property
    def rows(self) -> Tensor:
        """The numbers of all text tokens and of the kept ones, in the order text, image."""
        import torch

        text = torch.arange(self.text_length, device=self.kept.device)
        return torch.cat([text, self.kept + self.text_length])


class TokenRouter:
    """Routes tokens around ranges of blocks; idle outside `step`, so that validation sees every token."""

    def __init__(self, blocks: Sequence[nn.Module], routes: Sequence[Route]) -> None:
        self._generator: torch.Generator | None = None
        self._needed: Tensor | None = None
        self._text_length = 0
        self._kept: dict[Route, Tensor] = {}
        self._crossings: dict[Route, Crossing] = {}
        check(routes, len(blocks))
        if routes:
            blocks[0].register_forward_pre_hook(self._look_at_text, with_kwargs=True)
        for route in routes:
            span = route.span(len(blocks))
            for number in span:
                blocks[number].register_forward_pre_hook(self._entry(route, number == span[0]), with_kwargs=True)
            blocks[span[-1]].register_forward_hook(self._exit(route))

    @contextmanager
    def step(self, generator: Callable[[], torch.Generator], mask: Tensor | None = None) -> Iterator[None]:
        """Route everything inside the ``with`` along the same tokens: forward, backward and a teacher's pass.

        Args:
            generator: Makes the generator from which the tokens are drawn.
            mask: What matters of the latents, with shape (batch, 1, height, width): tokens of which more than half
                matters in any sample of the batch never skip a block, even if then fewer skip them than asked for.
        """
        self._generator = generator()
        self._needed = None if mask is None else _needed(mask)
        if self._needed is not None and self._needed.all():
            self._needed = None  # where everything matters, nothing matters more than the rest
        try:
            yield
        finally:
            self._generator = self._needed = None
            self._kept.clear()
            self._crossings.clear()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """No token skips a block inside the ``with``, which may be within that of a step."""
        generator, self._generator = self._generator, None
        try:
            yield
        finally:
            self._generator = generator

    def _look_at_text(self, block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._text_length = _by_name(block, args, kwargs)["encoder_hidden_states"].shape[1]

    def _entry(self, route: Route, is_first: bool) -> Callable[..., Any]:
        def enter(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if self._generator is None:
                return None
            given = _by_name(block, args, kwargs)
            if is_first:
                given["hidden_states"] = self._set_aside(route, given)
            return (), _shortened(given, self._crossings[route])

        return enter

    def _exit(self, route: Route) -> Callable[..., Any]:
        def leave(block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if self._generator is None:
                return None
            crossing = self._crossings[route]
            if isinstance(output, tuple):
                text, image = output
                return text, crossing.image.index_copy(1, crossing.kept, image)
            return _joined(output[:, : crossing.text_length], crossing, output[:, crossing.text_length :])

        return leave

    def _set_aside(self, route: Route, given: Mapping[str, Any]) -> Tensor:
        """The tokens that go on; blocks without a text of their own have it in front of the image."""
        import torch

        tokens: Tensor = given["hidden_states"]
        is_apart = "encoder_hidden_states" in given
        image = tokens if is_apart else tokens[:, self._text_length :]
        if route not in self._kept:
            self._kept[route] = self._draw(image.shape[1], route.ratio).to(image.device)
        kept = self._kept[route]
        self._crossings[route] = Crossing(image, kept, self._text_length)
        return image[:, kept] if is_apart else torch.cat([tokens[:, : self._text_length], image[:, kept]], dim=1)

    def _draw(self, count: int, ratio: float) -> Tensor:
        import torch

        order = torch.randperm(count, generator=self._generator)
        budget = count - round(count * ratio)
        if self._needed is not None:
            # References behind the image are not masked: none of their tokens is needed more than another.
            needed = torch.cat([self._needed, self._needed.new_zeros(count - len(self._needed))])
            order = order[(~needed[order]).int().argsort(stable=True)]
            budget = max(budget, int(needed.sum()))
        return order[:budget].sort().values


def _by_name(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All that a block is given, by name; checkpointing passes it by position."""
    _, *names = inspect.signature(type(block).forward).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _shortened(given: dict[str, Any], crossing: Crossing) -> dict[str, Any]:
    """What else a block is given for each token, for the tokens that are left."""
    rows = crossing.rows
    cosine, sine = given["image_rotary_emb"]
    changed = {**given, "image_rotary_emb": (cosine[rows], sine[rows])}
    # Of masks, the last axis is the tokens that are seen, and all tokens see the same.
    if given.get("attention_mask") is not None:
        changed["attention_mask"] = given["attention_mask"][..., rows]
    more = given.get("joint_attention_kwargs") or {}
    if more.get("attention_mask") is not None:
        changed["joint_attention_kwargs"] = {**more, "attention_mask": more["attention_mask"][..., rows]}
    return changed


def _joined(text: Tensor, crossing: Crossing, image: Tensor) -> Tensor:
    import torch

    return torch.cat([text, crossing.image.index_copy(1, crossing.kept, image)], dim=1)


def _needed(mask: Tensor) -> Tensor:
    """For each token of the image whether more than half of it matters in any sample."""
    from torch.nn.functional import avg_pool2d

    return (avg_pool2d(mask.float().cpu(), PATCH) > 0.5).any(dim=0).flatten()


def check(routes: Sequence[Route], count: int) -> None:
    """See that the blocks of the routes exist, and that no block lies on two routes.

    Raises:
        ModelError: One does not, or does.
    """
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
