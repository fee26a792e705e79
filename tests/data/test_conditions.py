"""Masks and references: paired by name, cropped like their image, and every file without a partner named at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simpletuner.data.dataset import Dataset
from simpletuner.errors import DataError
from simpletuner.progress import Recorded, StageStarted

from .folders import folder, opened, opened_whole, save

SIZES = {"a.jpg": (96, 64), "b.png": (64, 160), "deep/c.webp": (64, 64)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return folder(tmp_path / "pictures", SIZES)


def image(root: Path, id: str = "subject", **options: Any) -> dict[str, Any]:
    return {"id": id, "instance_data_dir": str(root), **options}


def partner(root: Path, kind: str = "mask", id: str = "masks", **options: Any) -> dict[str, Any]:
    return image(root, id, conditioning_type=kind, **({"source_dataset_id": "subject"} | options))


def copies(root: Path, ending: str = ".png", factor: int = 1) -> Path:
    """A picture for each of the images, by the same name with another ending."""
    sizes = {Path(name).with_suffix(ending).as_posix(): size for name, size in SIZES.items()}
    return folder(root, {name: (width * factor, height * factor) for name, (width, height) in sizes.items()})


def keys(dataset: Dataset) -> list[str]:
    return [record.key for record in dataset.records]


def test_a_mask_belongs_to_the_image_of_its_name_whatever_its_ending(pictures: Path, tmp_path: Path) -> None:
    (found,) = opened(image(pictures), partner(copies(tmp_path / "masks")), cache=tmp_path)
    (condition,) = found.conditions
    assert (condition.kind, condition.is_encoded) == ("mask", False)
    assert keys(found) == ["a.jpg", "b.png", "deep/c.webp"]
    assert keys(condition.dataset) == ["a.png", "b.png", "deep/c.png"]
    assert all(record.digest for record in condition.dataset.records)


@pytest.mark.parametrize("kind", ["mask", "segmentation", "reference_strict", "controlnet"])
@pytest.mark.parametrize("factor", [1, 2])
def test_what_lies_over_an_image_is_cropped_exactly_like_it(
    pictures: Path, tmp_path: Path, kind: str, factor: int
) -> None:
    crop = {"crop": True, "crop_style": "random"}
    own = {"resolution": 128, "crop": False}  # a strict partner has no geometry of its own
    root = copies(tmp_path / "partners", factor=factor)
    (found,) = opened(image(pictures, **crop), partner(root, kind, **own), cache=tmp_path)
    (condition,) = found.conditions
    placements = [record.placement for record in found.records]
    assert [record.placement for record in condition.dataset.records] == placements
    assert len({placement.crop for placement in placements}) > 1
    assert (condition.dataset.records.bucket_of == found.records.bucket_of).all()


def test_pixels_of_a_strict_reference_lie_over_those_of_their_image(tmp_path: Path) -> None:
    for name in ("pictures", "copies"):
        save(tmp_path / name / "a.png", (512, 64), seed=3)
    crop = {"crop": True, "crop_style": "random"}
    raw = [image(tmp_path / "pictures", **crop), partner(tmp_path / "copies", "reference_strict")]
    (found,) = opened(*raw, cache=tmp_path)
    (condition,) = found.conditions
    one = found.image(found.records[0])
    assert np.array_equal(one, condition.dataset.image(condition.dataset.records[0]))
    assert opened_whole(*raw, cache=tmp_path).encoded == (found, condition.dataset) or condition.is_encoded


def test_a_loose_reference_has_a_shape_of_its_own(pictures: Path, tmp_path: Path) -> None:
    root = folder(tmp_path / "loose", dict.fromkeys(("a.png", "b.png", "deep/c.png"), (128, 64)))
    raw = [image(pictures), partner(root, "reference_loose", resolution=128)]
    (found,) = opened(*raw, cache=tmp_path)
    buckets = [record.placement.bucket for record in found.conditions[0].dataset.records]
    assert len(set(buckets)) == 1
    assert buckets != [record.placement.bucket for record in found.records]


def test_every_file_without_a_partner_is_named_in_one_report(pictures: Path, tmp_path: Path) -> None:
    masks = copies(tmp_path / "masks")
    (masks / "a.png").unlink()
    (masks / "deep" / "c.png").unlink()
    save(masks / "deep" / "d.png")
    raw = image(pictures), partner(masks)
    with pytest.raises(DataError) as error:
        opened(*raw, cache=tmp_path)
    table = tmp_path / "manifest" / "pairs.unpaired.tsv"
    assert str(error.value).splitlines() == [
        "3 images are not paired:",
        f"  data set 'subject': {pictures}/a.jpg has no partner in 'masks'",
        f"  data set 'subject': {pictures}/deep/c.webp has no partner in 'masks'",
        f"  data set 'masks': {masks}/deep/d.png belongs to no image: none has this name",
        f"All are listed in {table}. Give both files of a pair the same name, apart from the ending, and the same "
        "shape; save anew what cannot be read, or take both away.",
    ]
    assert len(table.read_text().splitlines()) == 3
    (masks / "deep" / "d.png").rename(masks / "deep" / "c.png")
    save(masks / "a.png", (96, 64))
    save(masks / "deep" / "c.png", (64, 64))
    opened(*raw, cache=tmp_path)
    assert not table.exists()


def test_masks_of_images_that_are_left_out_are_not_in_the_way(pictures: Path, tmp_path: Path) -> None:
    raw = image(pictures, maximum_aspect_ratio=1.2), partner(copies(tmp_path / "masks"))
    (found,) = opened(*raw, cache=tmp_path)
    assert keys(found) == ["b.png", "deep/c.webp"]
    assert keys(found.conditions[0].dataset) == ["b.png", "deep/c.png"]


def test_a_mask_of_another_shape_is_told_before_training(pictures: Path, tmp_path: Path) -> None:
    masks = copies(tmp_path / "masks")
    save(masks / "a.png", (64, 64))
    with pytest.raises(DataError, match=r"1 image is not paired:\n.*masks/a.png has 64x64 pixels, but .* has 96x64"):
        opened(image(pictures), partner(masks), cache=tmp_path)


def test_a_mask_that_cannot_be_read_is_told_before_training(pictures: Path, tmp_path: Path) -> None:
    masks = copies(tmp_path / "masks")
    (masks / "b.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"data set 'masks': .*masks/b.png cannot be used: it is not an image"):
        opened(image(pictures), partner(masks), cache=tmp_path)
    save(masks / "b.png", (64, 160))
    data = (masks / "b.png").read_bytes()
    (masks / "b.png").write_bytes(data[: len(data) - 40])
    with pytest.raises(DataError, match=r"data set 'masks': 1 of its images cannot be used:\n.*masks/b.png") as told:
        opened(image(pictures), partner(masks), cache=tmp_path)
    assert str(told.value).count("masks/b.png") == 1


@pytest.mark.parametrize(("kind", "highest"), [("mask", 1), ("mask", 0), ("segmentation", 0)])
def test_masks_that_show_nothing_are_told_again_and_again(
    pictures: Path, tmp_path: Path, kind: str, highest: int
) -> None:
    masks = copies(tmp_path / "masks")
    bright = {path: path.read_bytes() for path in masks.rglob("*.png")}
    for path in bright:
        with Image.open(path) as found:
            Image.new("L", found.size, highest).save(path)

    def said() -> list[str]:
        heard = Recorded()
        opened(image(pictures, train_batch_size=1), partner(masks, kind), cache=tmp_path, reporter=heard)
        return [text for text in heard.texts() if "black" in text]

    for _ in range(2):
        (told,) = said()
        assert told.startswith("data set 'masks': its masks are black, and nothing is learned where they are: none of")
    first = min(bright)
    first.write_bytes(bright[first])
    assert said() == []


def test_a_segmentation_may_number_its_parts_from_1(pictures: Path, tmp_path: Path) -> None:
    masks = copies(tmp_path / "masks")
    for path in masks.rglob("*.png"):
        with Image.open(path) as found:
            Image.new("L", found.size, 1).save(path)
    heard = Recorded()
    opened(image(pictures), partner(masks, "segmentation"), cache=tmp_path, reporter=heard)
    assert not any("black" in text for text in heard.texts())


def test_one_folder_of_masks_may_serve_several_data_sets(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", {"a.jpg": (64, 64)})
    two = folder(tmp_path / "two", {"b.jpg": (64, 64)})
    masks = folder(tmp_path / "masks", {"a.png": (64, 64), "b.png": (64, 64)})
    raw = [
        image(one, "one", conditioning_data="masks"),
        image(two, "two", conditioning_data=["masks"]),
        image(masks, "masks", conditioning_type="mask"),
    ]
    found = opened(*raw, cache=tmp_path)
    assert [keys(dataset.conditions[0].dataset) for dataset in found] == [["a.png"], ["b.png"]]
    save(masks / "c.png", (64, 64))
    with pytest.raises(DataError, match=r"1 image is not paired:\n.*masks/c.png belongs to no image"):
        opened(*raw, cache=tmp_path)


def test_several_references_of_one_image_keep_their_order(pictures: Path, tmp_path: Path) -> None:
    first, second = copies(tmp_path / "x"), copies(tmp_path / "y")
    raw = [
        image(pictures, conditioning_data=["y", "x"]),
        image(first, "x", conditioning_type="reference_strict"),
        image(second, "y", conditioning_type="mask"),
    ]
    found = opened_whole(*raw, cache=tmp_path)
    assert [one.dataset.id for one in found.training[0].conditions] == ["y", "x"]
    assert [dataset.id for dataset in found.encoded] == ["subject", "x"]


def test_evaluation_data_may_have_partners(pictures: Path, tmp_path: Path) -> None:
    raw = [
        image(pictures),
        image(pictures, "eval", dataset_type="eval"),
        partner(copies(tmp_path / "masks"), source_dataset_id="eval"),
    ]
    found = opened_whole(*raw, cache=tmp_path)
    assert [len(dataset.conditions) for dataset in found.whole] == [0, 1]


def test_partners_of_data_sets_that_take_no_part_are_not_looked_at(pictures: Path, tmp_path: Path) -> None:
    raw = [
        image(pictures),
        image(tmp_path / "nowhere", "off", probability=0),
        partner(tmp_path / "nowhere", source_dataset_id="off"),
    ]
    (found,) = opened(*raw, cache=tmp_path)
    assert found.conditions == ()


def test_generated_pairs_need_no_files_and_write_none(pictures: Path, tmp_path: Path) -> None:
    before = sorted(pictures.rglob("*"))
    generator = {"type": "superresolution", "conditioning_type": "reference_strict"}
    (found,) = opened(image(pictures, conditioning=generator), cache=tmp_path)
    (condition,) = found.conditions
    dataset = condition.dataset
    assert dataset.id == "subject_conditioning_superresolution"
    assert keys(dataset) == keys(found)
    for own, other in zip(found.records, dataset.records, strict=True):
        assert own.digest != other.digest != ""
        assert own.placement == other.placement
        assert dataset.image(other).size == own.placement.bucket
    assert sorted(pictures.rglob("*")) == before


def test_other_settings_of_a_generator_give_other_digests(pictures: Path, tmp_path: Path) -> None:
    def digests(**params: Any) -> list[str]:
        generator = {"type": "jpeg_artifacts", "conditioning_type": "reference_strict", "params": params}
        (found,) = opened(image(pictures, conditioning=generator), cache=tmp_path)
        return [record.digest for record in found.conditions[0].dataset.records]

    assert digests() == digests()
    assert not set(digests()) & set(digests(quality_range=[1, 2]))


def test_a_second_run_reads_no_partner(pictures: Path, tmp_path: Path) -> None:
    raw = image(pictures), partner(copies(tmp_path / "masks"))
    opened(*raw, cache=tmp_path)
    reporter = Recorded()
    opened(*raw, cache=tmp_path, reporter=reporter)
    assert [event.total for event in reporter.events if isinstance(event, StageStarted)] == [0, 0]


def test_an_image_that_turns_out_to_be_damaged_takes_its_partners_along(pictures: Path, tmp_path: Path) -> None:
    loose = folder(tmp_path / "loose", dict.fromkeys(("a.png", "b.png", "deep/c.png"), (128, 64)))
    raw = image(pictures), partner(copies(tmp_path / "masks")), partner(loose, "reference_loose", "loose")
    (found,) = opened(*raw, cache=tmp_path)
    left = found.without({"b.png": f"{pictures}/b.png: it is damaged"}, Recorded())
    assert keys(left) == ["a.jpg", "deep/c.webp"]
    for condition in left.conditions:
        assert keys(condition.dataset) == ["a.png", "deep/c.png"]
    strict = left.conditions[0].dataset.records
    assert [record.placement for record in strict] == [record.placement for record in left.records]
    (again,) = opened(*raw, cache=tmp_path)
    assert keys(again.conditions[0].dataset) == ["a.png", "deep/c.png"]


def test_a_mask_stays_beside_its_image_through_upright_turning(tmp_path: Path) -> None:
    """A photograph that lies on its side, and a mask that was painted over what a viewer shows."""
    (tmp_path / "pictures").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (128, 64), "red").save(tmp_path / "pictures" / "a.jpg", exif=exif)
    masks = folder(tmp_path / "masks", {"a.png": (64, 128)})
    (found,) = opened(image(tmp_path / "pictures"), partner(masks), cache=tmp_path)
    assert found.records[0].size == found.conditions[0].dataset.records[0].size == (64, 128)
