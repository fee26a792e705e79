"""A file that is read piece by piece is like any other file."""

import io

from hypothesis import given
from hypothesis import strategies as st

from simpletuner.storage.ranged import open_ranged

CONTENT = bytes(range(256)) * 8192
STEPS = st.lists(st.tuples(st.sampled_from(["read", "start", "current", "end"]), st.integers(0, len(CONTENT))))


class Counted:
    """Gives pieces of the content, and notes which."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, int]] = []

    def __call__(self, start: int, length: int) -> bytes:
        assert 0 <= start < len(CONTENT) and length > 0
        self.pieces.append((start, length))
        return CONTENT[start : start + length]


@given(STEPS, st.integers(1, 50_000))
def test_reading_and_seeking_are_as_in_memory(steps: list[tuple[str, int]], head: int) -> None:
    ranged, plain = open_ranged(Counted(), CONTENT[:head], len(CONTENT)), io.BytesIO(CONTENT)
    for what, number in steps:
        for file in (ranged, plain):
            if what == "start":
                file.seek(number)
            elif what == "current" and file.tell() >= number // 2:
                file.seek(-(number // 2), io.SEEK_CUR)
            elif what == "end":
                file.seek(-number, io.SEEK_END)
        assert ranged.tell() == plain.tell()
        if what == "read":
            assert ranged.read(number) == plain.read(number)
    assert ranged.read() == plain.read()


def test_what_is_known_already_is_not_fetched_again() -> None:
    fetch = Counted()
    with open_ranged(fetch, CONTENT[:1000], len(CONTENT)) as file:
        assert file.read(500) + file.read(500) == CONTENT[:1000]
        file.seek(10)
        assert file.read(10) == CONTENT[10:20]
    assert fetch.pieces == []


def test_who_reads_on_gets_larger_and_larger_pieces() -> None:
    fetch = Counted()
    with open_ranged(fetch, CONTENT[:32768], len(CONTENT)) as file:
        while file.read(4096):
            pass
    assert [length for _, length in fetch.pieces] == [65536, 131072, 262144, 524288, 1048576, 32768]


def test_a_place_before_the_beginning_is_refused() -> None:
    with open_ranged(Counted(), b"", 10) as file:
        try:
            file.seek(-1)
        except OSError as error:
            assert "before the beginning" in str(error)
