"""Prompts to conditioning, through the cache: the text encoders are loaded only when a prompt is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from simpletuner.caching.tensors import TensorCache, settle
from simpletuner.progress import Advanced, Reporter, StageStarted

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Encode = Callable[[Sequence[str]], Sequence[Mapping[str, Tensor]]]


class OpenEncoder(Protocol):
    """Opens the text encoders."""

    def __call__(self) -> AbstractContextManager[Encode]:
        """The encoders, in memory only inside the ``with``."""


class PromptCache:
    """What every prompt of a run means to the model; a prompt lives in the cache that it was first asked for in."""

    def __init__(self) -> None:
        self._homes: dict[str, TensorCache] = {}

    def fill(
        self,
        wanted: Sequence[tuple[TensorCache, Iterable[str]]],
        encoder: OpenEncoder,
        batch_size: int,
        reporter: Reporter,
    ) -> None:
        """Encode the prompts that are not in their cache yet; the encoders are opened at most once."""
        for cache, prompts in wanted:
            for prompt in prompts:
                self._homes.setdefault(prompt, cache)
        missing = [prompt for prompt, cache in self._homes.items() if cache.missing([cache.key(prompt)])]
        if not missing:
            return
        reporter.report(StageStarted("text embeddings", len(missing)))
        with encoder() as encode, ThreadPoolExecutor() as pool:
            writing: list[Future[None]] = []
            for start in range(0, len(missing), batch_size):
                prompts = missing[start : start + batch_size]
                encoded = encode(prompts)
                settle(writing)
                writing = [pool.submit(self._put, *one) for one in zip(prompts, encoded, strict=True)]
                reporter.report(Advanced(len(prompts)))
            settle(writing)

    def _put(self, prompt: str, tensors: Mapping[str, Tensor]) -> None:
        cache = self._homes[prompt]
        cache.put(cache.key(prompt), tensors)

    def __getitem__(self, prompt: str) -> dict[str, Tensor]:
        """The conditioning of one prompt, without a batch axis."""
        cache = self._homes[prompt]
        return cache.get(cache.key(prompt))
