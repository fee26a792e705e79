"""Prompts to conditioning, through the cache: the text encoders are loaded only when a prompt is missing."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Protocol

from simpletuner.caching import old
from simpletuner.caching.filling import Writer, grouped
from simpletuner.caching.naming import Reasons
from simpletuner.caching.tensors import TensorCache
from simpletuner.progress import Advanced, Notice, Reporter, StageStarted

if TYPE_CHECKING:
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
        self._demand: OpenEncoder | None = None
        self._open = ExitStack()
        self._encode: Encode | None = None
        self._encoding = threading.Lock()

    def fill(
        self,
        wanted: Sequence[tuple[TensorCache, Iterable[str]]],
        encoder: OpenEncoder,
        batch_size: int,
        reporter: Reporter,
        *,
        only: Callable[[str], bool] | None = None,
    ) -> None:
        """Encode the prompts that are not in their cache yet; the encoders are opened at most once.

        Prompts of a cache on demand are left until they are asked for.

        Args:
            wanted: The prompts of each cache.
            encoder: Opens the encoders; not called when nothing is missing.
            batch_size: How many prompts are encoded at once.
            reporter: Told why something is missing, and about progress.
            only: Says of the key of a missing entry whether it is made now; all are unless given.
        """
        self._demand = encoder
        for cache, prompts in wanted:
            for prompt in prompts:
                self._homes.setdefault(prompt, cache)
        missing = self._missing(only or (lambda key: True))
        if not missing:
            return
        for cache in {self._homes[prompt] for prompt in missing}:
            cache.try_out()
        if only is None:
            reporter.report(Notice(f"text embeddings: {self.why()}"))
            for cache in dict.fromkeys(self._homes[prompt] for prompt in sorted(missing)):
                if cache.holds_old_files():
                    reporter.report(Notice(old.notice(cache.store.name)))
        reporter.report(StageStarted("text embeddings", len(missing)))
        shapes = {prompt: "" for prompt, cache in self._homes.items() if not cache.on_demand}
        with encoder() as encode, Writer() as writer:
            for group in grouped(shapes, missing.__contains__, batch_size):
                for prompt, tensors in zip(group.members, encode(group.filled(group.members)), strict=False):
                    writer.put(self._homes[prompt], self._key(prompt), tensors)
                reporter.report(Advanced(len(group.members)))

    def wanted(self) -> Mapping[TensorCache, set[str]]:
        """The keys of every entry that the run needs, by their cache."""
        found: dict[TensorCache, set[str]] = defaultdict(set)
        for prompt, cache in self._homes.items():
            found[cache].add(cache.key(prompt))
        return found

    def why(self) -> Reasons:
        """How many entries are missing, and why."""
        found = Reasons()
        for cache, keys in self.wanted().items():
            found += Reasons() if cache.on_demand else cache.why(keys)
        return found

    def missing(self) -> list[str]:
        """The prompts whose entries are not there, in the order in which they were asked for."""
        return [prompt for prompt, cache in self._homes.items() if self._key(prompt) not in cache]

    def put(self, prompt: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a conditioning that was made elsewhere."""
        self._homes[prompt].put(self._key(prompt), tensors)

    def close(self) -> None:
        """Give back the encoders, if they were opened on demand."""
        self._encode = None
        self._open.close()

    def __getitem__(self, prompt: str) -> dict[str, Tensor]:
        """The conditioning of one prompt, without a batch axis; a DataError names an entry that is gone or damaged."""
        cache, key = self._homes[prompt], self._key(prompt)
        if not cache.on_demand:
            return cache.get(key)
        with self._encoding:
            found = cache.find(key)
            return self._made(cache, key, prompt) if found is None else found

    def _missing(self, only: Callable[[str], bool]) -> set[str]:
        by_cache: dict[TensorCache, dict[str, str]] = defaultdict(dict)
        for prompt, cache in self._homes.items():
            if not cache.on_demand:
                by_cache[cache][cache.key(prompt)] = prompt
        return {prompts[key] for cache, prompts in by_cache.items() for key in cache.missing(prompts) if only(key)}

    def _made(self, cache: TensorCache, key: str, prompt: str) -> dict[str, Tensor]:
        """Encode one prompt that was asked for; the encoders stay open."""
        if self._encode is None:
            assert self._demand is not None, "fill comes first"
            self._encode = self._open.enter_context(self._demand())
        (made,) = self._encode([prompt])
        cache.put(key, made)
        return dict(made)

    def _key(self, prompt: str) -> str:
        return self._homes[prompt].key(prompt)
