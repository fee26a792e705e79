"""The facts of one data set: buckets, sizes, and what happens to images, told without opening one."""

from pathlib import Path

from simpletuner.data.report.facts import Bin, binned, facts
from tests.data.folders import folder, opened, opened_whole, save

SIZES = {"a.png": (128, 64), "b.png": (256, 128), "c.png": (64, 64), "d.png": (32, 32), "e.png": (640, 640)}


def test_every_bucket_says_what_happens_to_its_images(tmp_path: Path) -> None:
    folder(tmp_path / "images", SIZES)
    entry = {"id": "a", "instance_data_dir": str(tmp_path / "images"), "resolution_type": "pixel", "repeats": 1}
    (dataset,) = opened(entry, cache=tmp_path / "cache")
    found = facts(dataset)
    assert (found.id, found.kind, found.images, found.batches) == ("a", "images", 5, 5)
    square, wide = found.buckets
    assert (square.size, square.images, square.batches, square.added) == ((64, 64), 3, 3, 0)
    assert (wide.size, wide.images, wide.batches, wide.added) == ((128, 64), 2, 2, 0)
    assert (square.enlarged, wide.enlarged, found.most_enlarged) == (1, 0, 2.0)
    assert (square.lost, wide.lost, found.cropped_much, found.left) == (0.0, 0.0, 0, ())


def test_a_bucket_names_the_image_that_loses_most_first(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"a.png": (100, 100), "b.png": (150, 100), "c.png": (300, 100), "d.png": (110, 100)})
    entry = {"id": "a", "instance_data_dir": str(tmp_path / "images"), "crop": True, "train_batch_size": 3}
    (dataset,) = opened(entry, cache=tmp_path / "cache")
    (bucket,) = facts(dataset).buckets
    assert bucket.examples[0] == 2
    assert sorted(bucket.examples) == [0, 1, 2, 3]
    assert (bucket.cropped_much, bucket.batches, bucket.added) == (2, 2, 2)


def test_a_bucket_with_fewer_uses_than_a_batch_is_small(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"a.png": (64, 64), "b.png": (128, 64), "c.png": (128, 64), "d.png": (128, 64)})
    entry = {"id": "a", "instance_data_dir": str(tmp_path / "images"), "train_batch_size": 3}
    (dataset,) = opened(entry, cache=tmp_path / "cache", resolution_type="pixel")
    assert [bucket.size for bucket in facts(dataset).small_buckets] == [(64, 64)]
    beside = entry | {"id": "b", "dataset_type": "eval"}
    whole = opened_whole(entry, beside, cache=tmp_path / "cache", resolution_type="pixel")
    assert facts(whole.evaluation[0]).small_buckets == ()


def test_files_left_out_are_grouped_by_their_reason(tmp_path: Path) -> None:
    folder(tmp_path / "images", SIZES)
    (tmp_path / "images" / "page.jpg").write_text("<html>")
    (tmp_path / "images" / "raw.heic").write_bytes(b"x")
    entry = {"id": "a", "instance_data_dir": str(tmp_path / "images"), "minimum_image_size": 60}
    (dataset,) = opened(entry, cache=tmp_path / "cache", resolution_type="pixel")
    found = facts(dataset)
    assert [(group.reason, group.count) for group in found.left] == [
        ("not readable as an image", 2),
        ("smaller than minimum_image_size (60 px)", 1),
    ]
    assert found.left[1].examples == ((str(tmp_path / "images" / "d.png"), "it is 32x32"),)
    assert found.left_out == 3


def test_a_data_set_for_regularisation_or_evaluation_says_so(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", (64, 64))
    entry = {"id": "a", "instance_data_dir": str(tmp_path / "images"), "is_regularisation_data": True}
    (dataset,) = opened(entry, cache=tmp_path / "cache")
    assert facts(dataset).kind == "regularisation images"


def test_ranges_of_sizes_are_round_and_count_everything() -> None:
    found = binned([100, 120, 130, 500, 1000])
    assert sum(one.count for one in found) == 5
    assert len(found) <= 20
    assert all(one.low % 64 == 0 for one in found)
    assert found[0] == Bin(64, 128, 2)


def test_one_giant_does_not_squeeze_all_others_together() -> None:
    found = binned([*range(500, 1000)] + [50_000])
    assert sum(one.count for one in found) == 501
    assert found[-1].high is None
    assert found[-1].low < 1200


def test_ranges_of_nothing_and_of_one_value() -> None:
    assert binned([]) == ()
    assert [(one.low <= 512 < (one.high or 0), one.count) for one in binned([512.0] * 3)] == [(True, 3)]
