"""A cache that cannot lie: tensors under a name made of everything that decided them.

Whatever decided an entry (the content, what was done to it, the encoder) is part of its name, so an entry is either
right or not there; a checksum finds every entry that a disk has damaged. Entries appear whole, so two runs may fill
one cache at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from simpletuner.caching.entries import DamagedBytes, check, packed, unpacked
from simpletuner.caching.naming import Name, Reasons, hash_of_content, hash_of_plan, hash_of_recipe, parsed, reasons
from simpletuner.caching.old import OLD_FILE
from simpletuner.caching.recent import RecentStore
from simpletuner.errors import DataError
from simpletuner.storage.local import LocalStore
from simpletuner.storage.store import Store

if TYPE_CHECKING:
    from torch import Tensor

REPAIR = "simpletuner cache verify"
"""The command that makes damaged entries anew; it takes the same config as the run."""


class DamagedEntry(DataError):
    """An entry of a cache is gone or damaged; the message names it and the command that repairs it."""


class TensorCache:
    """Tensors in a store, addressed by content."""

    def __init__(self, store: Store, recipe: str, *, on_demand: bool = False) -> None:
        """A cache for what one encoder makes.

        Args:
            store: Where the entries are.
            recipe: Everything about the encoder and its settings that decides what it makes.
            on_demand: Whether what is missing is encoded when it is first asked for, not before training.
        """
        self.store = store
        self.recipe = recipe
        self.on_demand = on_demand
        self._recipe_hash = hash_of_recipe(recipe)
        self._listing = threading.Lock()
        self._known: set[str] | None = None
        self._empty: set[str] = set()
        self._has_old = False

    def key(self, content: str, plan: str = "") -> str:
        """The name of the entry for this content (a digest of an image, or a text) under this plan for its pixels."""
        return Name(hash_of_content(content), hash_of_plan(plan), self._recipe_hash).key

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that have no entry, each once, in order."""
        known = self._entries()
        return [key for key in dict.fromkeys(keys) if key not in known]

    def why(self, wanted: Collection[str]) -> Reasons:
        """How many of the wanted entries are missing because they are new, and how many because something changed."""
        missing = self.missing(wanted)
        return reasons(missing, self._entries().difference(wanted)) if missing else Reasons()

    def try_out(self) -> None:
        """Raise a DataError when entries cannot be kept in a folder: an encoder takes minutes to load."""
        if isinstance(self.store, LocalStore):
            self.store.try_out()

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store one entry.

        Raises:
            DataError: The cache cannot be written; the message says why.
        """
        self.store.write(key, packed(tensors, self.recipe))
        self._empty.discard(key)
        if self._known is not None:
            self._known.add(key)

    def get(self, key: str) -> dict[str, Tensor]:
        """One entry.

        Raises:
            DamagedEntry: The entry is gone or damaged; the message names it and what repairs it.
        """
        try:
            return unpacked(self.store.read(key))
        except KeyError as error:
            raise self._unusable(key, "is gone") from error
        except DamagedBytes as error:
            raise self._unusable(key, f"is damaged: {error}") from error

    def find(self, key: str) -> dict[str, Tensor] | None:
        """One entry, or nothing when it is not there or damaged: whoever asks so makes it anew."""
        try:
            return self.get(key)
        except DamagedEntry:
            return None

    def damage(self, key: str) -> str:
        """What is wrong with an entry: nothing, an empty text, when every bit of it is as it was written."""
        try:
            check(self.store.read(key))
        except KeyError:
            return "it is gone"
        except DamagedBytes as error:
            return str(error)
        return ""

    def __contains__(self, key: str) -> bool:
        """Whether the entry is there at this moment: another process may have made it."""
        return key not in self._empty and key in self.store

    def holds_old_files(self) -> bool:
        """Whether SimpleTuner or sd-scripts has left files of its own here."""
        self._entries()
        return self._has_old

    def forget_listing(self) -> None:
        """Look into the store again before the next answer: it was changed by somebody else."""
        self._known = None

    def _entries(self) -> set[str]:
        with self._listing:
            if self._known is None:
                sizes = {}
                for entry in self.store.entries():
                    if parsed(entry.key):
                        sizes[entry.key] = entry.size
                    elif not self._has_old:
                        self._has_old = OLD_FILE.fullmatch(entry.key) is not None
                self._known = {key for key, size in sizes.items() if size}
                self._empty = sizes.keys() - self._known
            return self._known

    def _unusable(self, key: str, what: str) -> DamagedEntry:
        return DamagedEntry(
            f"the cache entry {self.store.name}/{key} {what}. "
            f"Run `{REPAIR}` with the config of this run: it makes exactly such entries anew."
        )


def opened(store: Store, recipe: str, *, on_demand: bool = False, disable: bool = False) -> TensorCache:
    """The cache that the options of a data set ask for.

    Args:
        store: Where the entries are.
        recipe: Everything about the encoder and its settings that decides what it makes.
        on_demand: Encode what is missing when it is first asked for, and keep it.
        disable: Keep nothing in the store: what was used last stays in memory, and the rest is encoded again.
    """
    if disable:
        return TensorCache(RecentStore(), recipe, on_demand=True)
    return TensorCache(store, recipe, on_demand=on_demand)
