"""Every source of images keeps the same promises."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from contracts.openers import OPENERS, Case
from simpletuner.data.items import Item
from simpletuner.errors import DataError


@pytest.fixture(params=OPENERS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return OPENERS[request.param](tmp_path, FILES)


def picture(suffix: str, seed: int, size: tuple[int, int]) -> bytes:
    """A picture of noise; about 100 kB for 256 pixels, so that its head is only a part of it."""
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[suffix.lower()])
    return buffer.getvalue()


FILES: Mapping[str, bytes] = {
    "a.png": picture(".png", 1, (64, 48)),
    "a.txt": b"a red square",
    "b/large.jpg": picture(".jpg", 2, (256, 320)),
    "b/large.txt": b"a large picture\nof noise",
    "b/deep/er/c.webp": picture(".webp", 3, (40, 30)),
    "caf\u00e9 (1)/\u65e5\u672c & 100%+.jpg": picture(".jpg", 4, (33, 77)),
    "UPPER.JPG": picture(".jpg", 5, (64, 64)),
    "copy of a.png": picture(".png", 1, (64, 48)),
}


def images_of(case: Case) -> dict[str, Item]:
    items = [item for item in case.source.items() if not item.key.endswith(".txt")]
    assert len({item.key for item in items}) == len(items)
    return {item.key: item for item in items}


def test_every_image_is_listed_once(case: Case) -> None:
    assert set(images_of(case)) == set(case.images)
    assert all(not item.problem for item in case.source.items())


def test_listing_again_says_the_same(case: Case) -> None:
    first = images_of(case)
    assert images_of(case) == first
    assert all(item.version for item in first.values())


def test_what_is_read_is_what_was_put_there(case: Case) -> None:
    assert {key: case.source.read(key) for key in case.images} == case.images


def test_sizes_in_bytes_are_right_where_they_are_known(case: Case) -> None:
    known = {key: item.size_bytes for key, item in images_of(case).items() if item.size_bytes}
    assert known == {key: len(case.images[key]) for key in known}


def test_sizes_in_pixels_are_right_where_they_are_known(case: Case) -> None:
    known = {key: item.size for key, item in images_of(case).items() if item.size is not None}
    assert known == {key: Image.open(BytesIO(case.images[key])).size for key in known}


def test_files_can_be_read_in_pieces_from_any_place(case: Case) -> None:
    for key, content in case.images.items():
        with case.source.open(key) as file:
            assert file.read(16) == content[:16]
            file.seek(-40, 2)
            assert file.read(10) == content[-40:-30]
            file.seek(0)
            assert file.read() == content
            assert file.read() == b""


def test_a_picture_can_be_decoded_from_the_open_file(case: Case) -> None:
    for key, content in case.images.items():
        with case.source.open(key) as file, Image.open(file) as image:
            assert image.tobytes() == Image.open(BytesIO(content)).tobytes()


def test_equal_contents_have_equal_digests_where_they_are_known(case: Case) -> None:
    items = images_of(case)
    pairs = {(case.images[key], item.digest) for key, item in items.items() if item.digest}
    assert len({content for content, _ in pairs}) == len({digest for _, digest in pairs}) == len(pairs)


def test_captions_of_the_source_itself_are_right(case: Case) -> None:
    said = {key: item.captions for key, item in images_of(case).items() if item.captions is not None}
    assert said == dict(case.captions)


def test_each_file_has_a_name_that_a_user_finds(case: Case) -> None:
    names = [case.source.name(key) for key in case.images]
    assert len(set(names)) == len(names)
    assert all(PurePosixPath(key).name in name for key, name in zip(case.images, names, strict=True))


def test_the_place_of_all_images_has_a_name_too(case: Case) -> None:
    assert case.source.name("") not in {"", *(case.source.name(key) for key in case.images)}


def test_a_file_that_is_not_there_is_named(case: Case) -> None:
    with pytest.raises(DataError, match="no_such_picture"):
        case.source.read("no_such_picture.png")
    with (
        pytest.raises((DataError, FileNotFoundError), match="no_such_picture"),
        case.source.open("no_such_picture.png"),
    ):
        raise AssertionError("it was opened")


def test_many_threads_read_the_same_as_one(case: Case) -> None:
    keys = list(case.images) * 4
    with ThreadPoolExecutor(max(case.source.lanes, 4)) as threads:
        assert list(threads.map(case.source.read, keys)) == [case.images[key] for key in keys]


def test_nothing_is_written_where_the_images_are(case: Case) -> None:
    before = case.place()
    for item in case.source.items():
        case.source.read(item.key)
    with pytest.raises(DataError):
        case.source.read("no_such_picture.png")
    assert case.place() == before
