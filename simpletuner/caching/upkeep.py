"""Looking after caches: which entries are whole, which are needed, and which can go; foreign files are left alone."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from simpletuner.caching.naming import is_of_an_earlier_version, parsed
from simpletuner.caching.recent import RecentStore
from simpletuner.caching.tensors import TensorCache
from simpletuner.storage.local import LocalStore
from simpletuner.storage.store import Entry, Store


@dataclass(frozen=True)
class Place:
    """A store, and everything in it that a config needs."""

    store: Store
    needed: Set[str]
    kinds: tuple[str, ...]
    """What is kept there, in the words of a user."""
    on_demand: Set[str] = frozenset()
    """What of it is made when it is first used, and so is not missing before."""


@dataclass(frozen=True)
class Tally:
    """What is in one place, counted."""

    name: str
    kinds: tuple[str, ...]
    entries: int
    size: int
    """Of the entries in bytes."""
    needed: int
    missing: int
    later: int
    """Entries that are not there, and are made when they are first used."""
    surplus: int
    """Entries that this config does not need."""
    surplus_size: int
    foreign: int
    """Files that are none of ours."""


def places(wanted: Mapping[str, Mapping[TensorCache, Set[str]]]) -> list[Place]:
    """The places of a config's caches; caches that share one place are one place.

    Args:
        wanted: For each kind of content the keys that each cache shall have.
    """
    stores: dict[str, Store] = {}
    needed: dict[str, set[str]] = defaultdict(set)
    sooner: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, list[str]] = defaultdict(list)
    for kind, caches in wanted.items():
        for cache, keys in caches.items():
            if isinstance(cache.store, RecentStore):
                continue
            name = stores.setdefault(cache.store.name, cache.store).name
            needed[name] |= keys
            sooner[name] |= set() if cache.on_demand else keys
            kinds[name] += [] if kind in kinds[name] else [kind]
    return [
        Place(store, needed[name], tuple(kinds[name]), needed[name] - sooner[name])
        for name, store in sorted(stores.items())
    ]


def tally(place: Place) -> Tally:
    """Count what is in one place."""
    sizes = {entry.key: entry.size for entry in place.store.entries()}
    ours = [key for key in sizes if _is_ours(key)]
    surplus = [key for key in ours if key not in place.needed]
    absent = [key for key in place.needed if not sizes.get(key)]  # an empty file is no entry
    later = sum(key in place.on_demand for key in absent)
    return Tally(
        name=place.store.name,
        kinds=place.kinds,
        entries=len(ours),
        size=sum(sizes[key] for key in ours),
        needed=len(place.needed) - len(absent),
        missing=len(absent) - later,
        later=later,
        surplus=len(surplus),
        surplus_size=sum(sizes[key] for key in surplus),
        foreign=len(sizes) - len(ours),
    )


def entries(store: Store) -> list[Entry]:
    """Every entry of ours, whatever made it."""
    return [entry for entry in store.entries() if parsed(entry.key)]


def damaged(store: Store, keys: Iterable[str], advance: Callable[[int], None]) -> dict[str, str]:
    """Read entries, every bit of them; those that are not whole, with the reason.

    Args:
        store: Where they are.
        keys: Which are read.
        advance: Called with the number of entries that were read.
    """
    cache, found = TensorCache(store, ""), dict[str, str]()
    with ThreadPoolExecutor(8, thread_name_prefix="verify") as pool:
        for part in _parts(keys, 256):
            for key, damage in zip(part, pool.map(cache.damage, part), strict=True):
                if damage:
                    found[key] = damage
            advance(len(part))
    return found


def surplus(place: Place) -> list[Entry]:
    """The entries of ours that the config does not need; files of others are never among them."""
    return [entry for entry in place.store.entries() if _is_ours(entry.key) and entry.key not in place.needed]


def leftovers(store: Store, *, older_than: float = 3600.0) -> list[Path]:
    """Halves of files that a killed process has left behind; younger ones may still be written by another one."""
    if not isinstance(store, LocalStore):
        return []
    limit = time.time() - older_than
    found = (path for path in store.root.rglob(".*.part") if _HALF.fullmatch(path.name))
    return [path for path in found if path.stat().st_mtime < limit]


def _is_ours(key: str) -> bool:
    return parsed(key) is not None or is_of_an_earlier_version(key)


def _parts(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = iter(keys)
    while part := list(islice(remaining, size)):
        yield part


_HALF = re.compile(r"\.[0-9a-f]{16}\.part")
