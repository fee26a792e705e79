"""A data set that is made out of another one: same files, other pictures, nothing written."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image

from simpletuner.data import images
from simpletuner.data.generators import JpegArtifacts, RandomMasks, SuperResolution
from simpletuner.data.generators.source import Generated, GeneratedSource
from simpletuner.data.items import Item, Size
from simpletuner.data.sources import Local
from simpletuner.errors import DataError
from simpletuner.progress import Recorded, Reporter


def save(path: Path, size: tuple[int, int], colour: str) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "a.jpg", (96, 64), "red")
    save(tmp_path / "below" / "b.png", (40, 80), "blue")
    (tmp_path / "a.txt").write_text("a caption\n")
    return tmp_path


def generated(folder: Path) -> GeneratedSource:
    local = Local(id="x", instance_data_dir=folder)
    return GeneratedSource(local.open(), SuperResolution())


def test_it_lists_the_same_files_and_opening_one_tells_its_size(folder: Path) -> None:
    source = generated(folder)
    items = {item.key: item for item in source.items()}
    assert sorted(items) == ["a.jpg", "a.txt", "below/b.png"]
    with source.open("below/b.png") as file:
        assert images.probe(file) == Size(40, 80)


def test_reading_gives_a_picture_of_the_upright_size(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 64), "red").save(folder / "turned.jpg", exif=exif)
    source = generated(folder)
    sizes = {}
    for key in ("a.jpg", "below/b.png", "turned.jpg"):
        with Image.open(io.BytesIO(source.read(key))) as picture:
            assert (picture.format, picture.mode) == ("PNG", "RGB")
            sizes[key] = picture.size
    assert sizes == {"a.jpg": (96, 64), "below/b.png": (40, 80), "turned.jpg": (64, 96)}


def test_captions_stay_what_they_are(folder: Path) -> None:
    source = generated(folder)
    assert source.read("a.txt") == b"a caption\n"
    assert source.name("a.txt") == str(folder / "a.txt")


def test_captions_with_another_ending_stay_what_they_are_too(folder: Path) -> None:
    (folder / "a.caption").write_text("another")
    local = Local(id="x", instance_data_dir=folder, caption_extension=".caption")
    source = GeneratedSource(local.open(), SuperResolution())
    assert "a.caption" in {item.key for item in source.items()}
    assert source.read("a.caption") == b"another"


def test_a_picture_changes_when_its_image_or_the_settings_do(folder: Path) -> None:
    def versions(**settings: object) -> dict[str, str]:
        source = GeneratedSource(Local(id="x", instance_data_dir=folder).open(), SuperResolution(**settings))
        return {item.key: item.version for item in source.items()}

    before = versions()
    assert before == versions()
    other = versions(blur_radius=3)
    assert {key for key in before if before[key] != other[key]} == {"a.jpg", "below/b.png"}
    os.utime(folder / "a.jpg", (1, 1))
    assert {key for key, version in versions().items() if before[key] != version} == {"a.jpg"}


def test_nothing_is_written(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    source = generated(folder)
    for item in source.items():
        source.read(item.key)
    assert sorted(folder.rglob("*")) == before


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(DataError, match=r"broken\.png: it is"):
        generated(folder).read("broken.png")


def test_an_image_of_which_nothing_can_be_made_is_named(folder: Path) -> None:
    Image.new("RGB", (65_501, 1)).save(folder / "long.png")
    source = GeneratedSource(Local(id="x", instance_data_dir=folder).open(), JpegArtifacts())
    with pytest.raises(DataError, match=r"long\.png \(made into: jpeg_artifacts\): JPEG holds no image"):
        source.read("long.png")


class Known:
    """A source that knows checksums without reading, and has work to do first."""

    lanes = 32

    def __init__(self) -> None:
        self.prepared = 0

    def prepare(self, reporter: Reporter) -> None:
        self.prepared += 1

    def items(self) -> Iterator[Item]:
        yield Item("a.png", "", 3, digest="same")
        yield Item("b.png", "2", 3, digest="same", size=Size(3, 4), captions=("one",))

    def read(self, key: str) -> bytes:
        raise AssertionError(key)

    def open(self, key: str) -> BinaryIO:
        raise AssertionError(key)

    def name(self, key: str) -> str:
        return f"known://{key}"


def test_what_a_source_knows_without_reading_is_known_of_its_pictures_too() -> None:
    source = GeneratedSource(Known(), JpegArtifacts())
    first, second = source.items()
    assert (first.version, first.size, first.captions) == ("", None, None)
    assert (second.size, second.captions) == (Size(3, 4), ("one",))
    assert first.digest == second.digest != "same"
    assert source.lanes == 32
    assert source.name("a.png") == "known://a.png (made into: jpeg_artifacts)"


def test_equal_images_have_pictures_of_their_own_where_chance_plays_a_part() -> None:
    first, second = GeneratedSource(Known(), RandomMasks()).items()
    assert first.digest != second.digest


def test_the_other_source_is_prepared_first() -> None:
    known = Known()
    GeneratedSource(known, RandomMasks()).prepare(Recorded())
    assert known.prepared == 1


def test_a_source_that_has_nothing_to_prepare_is_left_alone(folder: Path) -> None:
    generated(folder).prepare(Recorded())


def test_a_generated_data_set_opens_the_one_it_is_made_from(folder: Path) -> None:
    local = Local(id="x", instance_data_dir=folder)
    entry = Generated(id="y", made_from=local, generator=SuperResolution())
    assert sorted(item.key for item in entry.open().items()) == ["a.jpg", "a.txt", "below/b.png"]
