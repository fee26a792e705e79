"""What is known about files, as columns that last: saved whole, loaded in a moment, and never trusted when damaged."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletuner.data import manifest as manifests
from simpletuner.data.items import Box
from simpletuner.data.manifest import Manifest, Row, load, save, schema, table_of
from simpletuner.data.sources.base import wanted
from simpletuner.data.sources.local import LocalFolder
from simpletuner.errors import DataError
from simpletuner.storage.retries import Unreachable

from .folders import folder

texts = st.text(max_size=8).map(lambda text: text.encode("utf-8", "ignore").decode())
rows = st.builds(
    Row, texts, texts, st.integers(0, 2**60), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), texts, texts, texts,
    st.none() | st.lists(texts, max_size=3), st.none() | st.lists(st.integers(0, 9), min_size=4, max_size=4),
)  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return folder(tmp_path / "pictures", {f"{number:03}.png": (64, 64 + number % 5) for number in range(9)})


def of(pictures: Path, cache: Path) -> tuple[LocalFolder, Manifest]:
    source = LocalFolder(pictures, wanted())
    found = sorted(source.items())
    return source, Manifest(cache / "m.parquet", table_of([Row(item.key, item.version, 9, 64, 64) for item in found]))


def test_rows_come_back_as_they_were_saved(tmp_path: Path) -> None:
    @settings(deadline=None)
    @given(st.lists(rows, max_size=5))
    def check(given_rows: list[Row]) -> None:
        save(tmp_path / "m.parquet", table_of(given_rows))
        found = Manifest(tmp_path / "m.parquet", load(tmp_path / "m.parquet"))
        assert [found.row(place) for place in range(len(found))] == given_rows

    check()


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "foreign", "older"])
def test_what_cannot_be_trusted_counts_as_nothing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.parquet"
    table = table_of([Row(f"{number}.png", "1", 9) for number in range(500)])
    save(path, table)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "foreign":
        pq.write_table(pa.table({"key": ["a"]}), path)
    elif damage == "older":
        pq.write_table(table.replace_schema_metadata({b"simpletuner.manifest": b"1"}), path)
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-9], "flipped": whole[:-6] + b"\xff" + whole[-5:]}[damage])
    assert load(path).equals(table_of([]))


def test_saving_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for count in (5, 2):
        save(tmp_path / "m.parquet", table_of([Row(str(number), "1", 9) for number in range(count)]))
    assert len(load(tmp_path / "m.parquet")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m.parquet"]


def test_digests_are_found_out_for_the_rows_that_are_named(pictures: Path, tmp_path: Path) -> None:
    source, manifest = of(pictures, tmp_path)
    counts: list[int] = []
    found = manifest.with_digests(source, np.array([1, 3]), counts.append)
    assert np.flatnonzero(~found.is_empty("digest")).tolist() == [1, 3]
    assert sum(counts) == 2
    assert load(tmp_path / "m.parquet").equals(found.table)
    assert manifest.is_empty("digest").all()


def test_equal_bytes_have_equal_digests(pictures: Path, tmp_path: Path) -> None:
    (pictures / "copy.png").write_bytes((pictures / "000.png").read_bytes())
    source, manifest = of(pictures, tmp_path)
    found = manifest.with_digests(source, np.arange(len(manifest)), lambda count: None)
    digests = {row.key: row.digest for row in map(found.row, range(len(found)))}
    assert digests["copy.png"] == digests["000.png"]
    assert len(set(digests.values())) == len(digests) - 1


def test_a_file_that_is_gone_has_a_problem_and_does_not_stop_the_others(pictures: Path, tmp_path: Path) -> None:
    source, manifest = of(pictures, tmp_path)
    (pictures / "004.png").unlink()
    found = manifest.with_digests(source, np.arange(9), lambda count: None)
    assert np.flatnonzero(found.is_empty("digest")).tolist() == [4]
    assert "004.png: no such file" in found.row(4).problem


def test_a_file_whose_pixels_are_wanted_and_broken_has_a_problem(pictures: Path, tmp_path: Path) -> None:
    (pictures / "004.png").write_bytes((pictures / "004.png").read_bytes()[:60])
    source, manifest = of(pictures, tmp_path)
    found = manifest.with_digests(source, np.arange(9), lambda count: None, decoding=True)
    assert np.flatnonzero(~found.is_empty("problem")).tolist() == [4]
    assert found.row(4).digest == ""


def test_a_place_that_does_not_answer_ends_the_work_instead_of_condemning_its_files(
    pictures: Path, tmp_path: Path
) -> None:
    class Gone(LocalFolder):
        def read(self, key: str) -> bytes:
            raise Unreachable("nobody answers")

    _, manifest = of(pictures, tmp_path)
    with pytest.raises(Unreachable):
        manifest.with_digests(Gone(pictures, wanted()), np.arange(9), lambda count: None)


def test_digests_are_the_same_with_many_lanes(pictures: Path, tmp_path: Path) -> None:
    class Wide(LocalFolder):
        lanes = 8

    source, manifest = of(pictures, tmp_path)
    one = manifest.with_digests(source, np.arange(9), lambda count: None)
    many = manifest.with_digests(Wide(pictures, wanted()), np.arange(9), lambda count: None)
    assert one.table.equals(many.table)


def test_what_was_found_before_an_interruption_is_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(LocalFolder):
        def read(self, key: str) -> bytes:
            if key == "007.png":
                raise KeyboardInterrupt
            return super().read(key)

        def open(self, key: str) -> BinaryIO:
            raise DataError("must not be opened")

    monkeypatch.setattr(manifests, "_TELL_EVERY", 2)
    monkeypatch.setattr(manifests, "_SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(manifests, "_SAVE_AT_MOST", 0)
    _, manifest = of(pictures, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        manifest.with_digests(Interrupted(pictures, wanted()), np.arange(9), lambda count: None)
    kept = Manifest(tmp_path / "m.parquet", load(tmp_path / "m.parquet"))
    assert np.flatnonzero(~kept.is_empty("digest")).tolist() == [0, 1, 2, 3, 4, 5]


def test_images_without_a_face_are_remembered_too(pictures: Path, tmp_path: Path) -> None:
    source, manifest = of(pictures, tmp_path)
    assert manifest.row(0).face is None
    found = manifest.with_faces(source, np.array([0, 2]), lambda count: None)
    assert [found.row(place).face for place in range(3)] == [[], None, []]
    assert found.face(0) is None and found.face(1) is None


def test_a_face_is_a_box() -> None:
    assert Manifest(Path("m"), table_of([Row("a", "1", 9, face=[1, 2, 3, 4])])).face(0) == Box(1, 2, 3, 4)


def test_damaged_images_stay_out_with_their_reason(pictures: Path, tmp_path: Path) -> None:
    _, manifest = of(pictures, tmp_path)
    found = manifest.rejecting({"003.png": "broken", "005.png": "also broken"})
    assert {row.key: row.problem for row in map(found.row, range(9)) if row.problem} == {
        "003.png": "broken", "005.png": "also broken",
    }  # fmt: skip
    assert load(tmp_path / "m.parquet").equals(found.table)


def test_no_rows_have_the_same_columns_as_many() -> None:
    assert table_of([]).schema.equals(schema())
    assert table_of([Row("a", "1", 9)]).schema.equals(schema())
