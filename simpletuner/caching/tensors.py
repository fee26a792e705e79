"""A cache that cannot lie: tensors under a name made of everything that decided them.

The name is a hash of the recipe (encoder, precision, settings) and of the content (image bytes and placement, or the
text). Whatever changes, the name changes, so an entry is either right or not there. Entries are safetensors files that
appear whole, so two runs may fill one cache at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from hashlib import blake2b
from typing import TYPE_CHECKING

from simpletuner.errors import DataError
from simpletuner.storage.store import Store

if TYPE_CHECKING:
    from torch import Tensor


class TensorCache:
    """Tensors in a store, addressed by content."""

    def __init__(self, store: Store, recipe: str) -> None:
        self._store = store
        self._recipe = recipe
        self._known: set[str] | None = None

    def key(self, *content: str) -> str:
        """The name of the entry that these contents lead to under the recipe of this cache."""
        digest = blake2b("\x00".join([self._recipe, *content]).encode(), digest_size=16).hexdigest()
        return f"{digest[:2]}/{digest}.safetensors"

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that have no entry, each once, in order."""
        if self._known is None:
            self._known = {entry.key for entry in self._store.entries() if entry.size > 0}
        return [key for key in dict.fromkeys(keys) if key not in self._known]

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store one entry.

        Raises:
            DataError: The cache cannot be written; the message says why.
        """
        from safetensors.torch import save

        named = {name: tensor.contiguous() for name, tensor in tensors.items()}
        self._store.write(key, save(named, metadata={"recipe": self._recipe}))
        if self._known is not None:
            self._known.add(key)

    def get(self, key: str) -> dict[str, Tensor]:
        """One entry.

        Raises:
            DataError: The entry is gone or damaged; the message names it.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            found: dict[str, Tensor] = load(self._store.read(key))
        except (KeyError, SafetensorError) as error:
            raise DataError(
                f"the cache entry {key} cannot be read: {error}. Delete this file and start again; it is made anew."
            ) from error
        return found


def settle(writing: Iterable[Future[None]]) -> None:
    """Wait for entries that are being written; what went wrong with one of them is raised here."""
    for entry in writing:
        entry.result()
