"""Every store keeps the same promises."""

from collections.abc import Callable
from pathlib import Path

import pytest
from servers.s3 import FAST, shared

from simpletuner.storage.local import LocalStore
from simpletuner.storage.memory import MemoryStore
from simpletuner.storage.s3 import S3Store
from simpletuner.storage.store import Store


def in_a_bucket(folder: Path) -> Store:
    return S3Store(shared().address(shared().new_bucket()), "a folder/of the bucket", patience=FAST)


STORES: dict[str, Callable[[Path], Store]] = {
    "local": lambda folder: LocalStore(folder / "made at the first write"),
    "memory": lambda folder: MemoryStore(),
    "s3": in_a_bucket,
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)


def test_what_is_written_is_read(store: Store) -> None:
    store.write("a/b.bin", b"\x00content")
    assert store.read("a/b.bin") == b"\x00content"
    assert "a/b.bin" in store


def test_the_last_write_counts(store: Store) -> None:
    store.write("a", b"first, and longer")
    store.write("a", b"second")
    assert store.read("a") == b"second"


@pytest.mark.parametrize("key", ["missing", "folder", "file/below"])
def test_a_missing_key_is_a_key_error(store: Store, key: str) -> None:
    store.write("folder/x", b"")
    store.write("file", b"")
    assert key not in store
    with pytest.raises(KeyError):
        store.read(key)


def test_entries_come_in_order_with_their_sizes(store: Store) -> None:
    for key in ("b/2", "a", "b/1", "bc/3"):
        store.write(key, key.encode())
    assert [(entry.key, entry.size) for entry in store.entries()] == [("a", 1), ("b/1", 3), ("b/2", 3), ("bc/3", 4)]
    assert [entry.key for entry in store.entries("b/")] == ["b/1", "b/2"]
    assert [entry.key for entry in store.entries("b")] == ["b/1", "b/2", "bc/3"]
    assert list(store.entries("nowhere/x")) == []


def test_an_empty_store_has_no_entries(store: Store) -> None:
    assert list(store.entries()) == []


def test_the_version_changes_with_the_content(store: Store) -> None:
    store.write("a", b"one")
    (before,) = store.entries()
    store.write("a", b"another")
    (after,) = store.entries()
    assert before.version != after.version


def test_a_deleted_key_is_gone_and_can_be_deleted_again(store: Store) -> None:
    store.write("a/b", b"")
    store.delete("a/b")
    store.delete("a/b")
    assert "a/b" not in store


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../outside", "a/../../b"])
def test_a_key_cannot_leave_the_store(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="path inside the store"):
        store.write(key, b"")


def test_keys_may_hold_any_letters(store: Store) -> None:
    keys = ["caf\u00e9/\u65e5\u672c \u8a9e.bin", "a b+c&d=e%20f#g?h", 'quo\'te "x".safetensors']
    for key in keys:
        store.write(key, key.encode())
    assert [entry.key for entry in store.entries()] == sorted(keys)
    assert [store.read(key).decode() for key in keys] == keys


def test_empty_and_large_contents_come_back(store: Store) -> None:
    large = bytes(range(256)) * 40_000
    store.write("large", large)
    store.write("empty", b"")
    assert store.read("large") == large
    assert store.read("empty") == b""
    assert "empty" in store
