"""A sealed table is still a table, and shows every change of a bit."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simpletuner.data.seal import is_whole, sealed


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pa.table({"key": [f"{number}.png" for number in range(40)], "width": list(range(40))})


@pytest.fixture(scope="module")
def data(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return sealed(buffer.getvalue().to_pybytes())


def test_other_programs_read_it_as_it_is(table: pa.Table, data: bytes) -> None:
    assert is_whole(data)
    assert pq.read_table(pa.BufferReader(data)).equals(table)


def test_every_flipped_bit_and_every_lost_end_is_noticed(data: bytes) -> None:
    for place in range(len(data)):
        harmed = bytearray(data)
        harmed[place] ^= 1 << place % 8
        assert not is_whole(bytes(harmed)), place
        assert not is_whole(data[:place]), place
    assert not is_whole(data + b"\x00")
