"""Opening data sets: what takes part, what is left out and said about it, and what cannot be trained on."""

from pathlib import Path

import numpy as np
import pytest

from simpletuner.data.captions import stated
from simpletuner.data.images import Unreadable
from simpletuner.data.options import DataDefaults
from simpletuner.data.plan import caption_rules
from simpletuner.data.sources import Local
from simpletuner.data.timeline import Window
from simpletuner.errors import DataError
from simpletuner.progress import DatasetReady, Recorded, StageStarted

from .folders import folder, opened, opened_whole, save


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return folder(tmp_path / "pictures", {"red_cat.jpg": (96, 64), "dog.png": (64, 64), "fox.png": (256, 64)})


def test_a_data_set_has_a_record_for_each_image(pictures: Path, tmp_path: Path) -> None:
    (found,) = opened({"id": "a", "instance_data_dir": str(pictures), "repeats": 2}, cache=tmp_path)
    assert [(record.key, record.captions) for record in found.records] == [
        ("dog.png", ("dog",)), ("fox.png", ("fox",)), ("red_cat.jpg", ("red cat",)),
    ]  # fmt: skip
    assert all(record.digest.startswith("xxh3-") for record in found.records)
    assert (found.repeats, found.probability, found.batch_size, found.regularise) == (2, 1.0, 2, False)


def test_the_pixels_of_a_record_have_the_size_of_its_bucket(pictures: Path, tmp_path: Path) -> None:
    (found,) = opened({"id": "a", "instance_data_dir": str(pictures)}, cache=tmp_path)
    for record in found.records:
        assert found.image(record).size == record.placement.bucket


def test_what_was_found_is_reported(pictures: Path, tmp_path: Path) -> None:
    reporter = Recorded()
    opened(
        {"id": "a", "instance_data_dir": str(pictures), "maximum_aspect_ratio": 2}, cache=tmp_path, reporter=reporter
    )
    skip_list = tmp_path / "manifest" / "a.skipped.tsv"
    (ready,) = (event for event in reporter.events if isinstance(event, DatasetReady))
    assert ready == DatasetReady("a", 2, 1, 1, str(skip_list))
    assert skip_list.read_text() == f"{pictures}/fox.png\twider than maximum_aspect_ratio (2)\tit is 256x64\n"
    assert reporter.texts() == [
        f"data set 'a': 1 file is left out: 1 wider than maximum_aspect_ratio (2); see {skip_list}"
    ]


def test_buckets_smaller_than_a_batch_are_told_and_used(pictures: Path, tmp_path: Path) -> None:
    reporter = Recorded()
    (found,) = opened({"id": "a", "instance_data_dir": str(pictures)}, cache=tmp_path, reporter=reporter)
    assert sum(found.buckets.values()) == 3
    assert reporter.texts() == [
        "data set 'a': 1 of 2 buckets holds fewer images than a batch of 2; its images are repeated to fill it"
    ]


def test_eval_data_has_no_batches_to_fill(pictures: Path, tmp_path: Path) -> None:
    reporter = Recorded()
    entry = {"id": "a", "instance_data_dir": str(pictures), "train_batch_size": 1}
    opened_whole(entry, entry | {"id": "e", "dataset_type": "eval", "train_batch_size": 9}, cache=tmp_path,
                 reporter=reporter)  # fmt: skip
    assert reporter.texts() == []


def test_the_longest_id_in_any_alphabet_fits_a_file_name(pictures: Path, tmp_path: Path) -> None:
    entries = [{"id": "\u4e2d" * 99 + end, "instance_data_dir": str(pictures)} for end in "ab"]
    assert [len(one.records) for one in opened(*entries, cache=tmp_path)] == [3, 3]
    assert len(list((tmp_path / "manifest").glob("*.parquet"))) == 2


def test_a_skip_list_goes_when_nothing_is_skipped_any_more(pictures: Path, tmp_path: Path) -> None:
    opened({"id": "a", "instance_data_dir": str(pictures), "maximum_aspect_ratio": 2}, cache=tmp_path)
    opened({"id": "a", "instance_data_dir": str(pictures)}, cache=tmp_path)
    assert not (tmp_path / "manifest" / "a.skipped.tsv").exists()


def test_two_images_of_the_same_name_are_two_records(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {"a.png": (64, 64), "a.jpg": (64, 64)})
    (root / "a.txt").write_text("both")
    (found,) = opened({"id": "a", "instance_data_dir": str(root), "caption_strategy": "textfile"}, cache=tmp_path)
    assert [(record.key, record.captions) for record in found.records] == [("a.jpg", ("both",)), ("a.png", ("both",))]


def test_a_folder_can_be_listed_several_times_and_is_read_once(pictures: Path, tmp_path: Path) -> None:
    raw = [{"id": id, "instance_data_dir": str(pictures), "resolution": edge} for id, edge in [("s", 64), ("m", 128)]]
    reporter = Recorded()
    small, large = opened(*raw, cache=tmp_path, reporter=reporter)
    assert [record.digest for record in small.records] == [record.digest for record in large.records]
    assert sum("reading new images" in str(event) for event in reporter.events) == 1


def test_a_second_run_reads_no_image(pictures: Path, tmp_path: Path) -> None:
    raw = {"id": "a", "instance_data_dir": str(pictures)}
    (first,) = opened(raw, cache=tmp_path)
    reporter = Recorded()
    (second,) = opened(raw, cache=tmp_path, reporter=reporter)
    assert list(second.records) == list(first.records)
    assert [event.total for event in reporter.events if isinstance(event, StageStarted)] == [0]


def test_a_changed_setting_takes_effect_over_an_existing_manifest(pictures: Path, tmp_path: Path) -> None:
    raw = {"id": "a", "instance_data_dir": str(pictures)}
    (before,) = opened(raw | {"resolution": 64}, cache=tmp_path)
    (after,) = opened(raw | {"resolution": 128}, cache=tmp_path)
    assert before.records[0].placement.bucket == (64, 64)
    assert after.records[0].placement.bucket == (128, 128)


def test_a_random_crop_depends_on_seed_data_set_and_image_alone(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {f"{i}.png": (512, 64) for i in range(8)})
    raw = {"id": "a", "instance_data_dir": str(root), "crop": True, "crop_style": "random"}
    (first,) = opened(raw, cache=tmp_path)
    save(root / "0 new.png", (512, 64))
    (later,) = opened(raw, cache=tmp_path)
    (other,) = opened(raw | {"id": "b"}, cache=tmp_path)
    crops = [record.placement.crop for record in first.records]
    assert crops == [record.placement.crop for record in later.records if record.key != "0 new.png"]
    assert len(set(crops)) > 4
    assert crops != [record.placement.crop for record in other.records if record.key != "0 new.png"]


def test_max_num_samples_takes_always_the_same_images(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {f"{i}.png": (64, 64) for i in range(9)})
    raw = {"id": "a", "instance_data_dir": str(root), "max_num_samples": 4}
    (first,), (second,) = opened(raw, cache=tmp_path), opened(raw, cache=tmp_path / "other")
    assert [record.key for record in first.records] == [record.key for record in second.records]
    assert len(first.records) == 4


def test_a_data_set_of_probability_0_is_not_opened(pictures: Path, tmp_path: Path) -> None:
    found = opened(
        {"id": "a", "instance_data_dir": str(pictures)},
        {"id": "off", "instance_data_dir": "nowhere", "probability": 0},
        cache=tmp_path,
    )
    assert [dataset.id for dataset in found] == ["a"]
    with pytest.raises(DataError, match="no data set takes part in training: give one of them a probability above 0"):
        opened({"id": "off", "instance_data_dir": "nowhere", "probability": 0}, cache=tmp_path)


def test_every_image_without_a_caption_is_named_in_one_report(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {f"{i}.png": (64, 64) for i in range(8)})
    (root / "1.txt").write_text("  \n")
    (root / "2.txt").write_text("fine")
    raw = {"id": "a", "instance_data_dir": str(root), "caption_strategy": "textfile"}
    with pytest.raises(DataError) as error:
        opened(raw, cache=tmp_path)
    table = tmp_path / "manifest" / "a.captions.tsv"
    assert str(error.value).splitlines() == [
        "data set 'a': 7 of its images have no caption:",
        f"  {root}/0.png: there is no .txt file of this name",
        f"  {root}/1.png: its .txt file is empty",
        f"  {root}/3.png: there is no .txt file of this name",
        f"  {root}/4.png: there is no .txt file of this name",
        f"  {root}/5.png: there is no .txt file of this name",
        f"  and 2 more, see {table}",
        "Write the captions, take the images away, set caption_fallback, or choose another caption_strategy.",
    ]
    assert len(table.read_text().splitlines()) == 7
    for i in range(8):
        (root / f"{i}.txt").write_text("fine")
    opened(raw, cache=tmp_path)
    assert not table.exists()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("0.caption", "Beside 0.png lies 0.caption: set caption_extension to .caption."),
        ("0.png.txt", "Beside 0.png lies 0.png.txt, which has to be called 0.txt."),
    ],
)
def test_a_caption_under_another_name_is_pointed_at(tmp_path: Path, name: str, advice: str) -> None:
    root = folder(tmp_path / "pictures", {"0.png": (64, 64)})
    (root / name).write_text("a thing")
    with pytest.raises(DataError) as error:
        opened({"id": "a", "instance_data_dir": str(root), "caption_strategy": "textfile"}, cache=tmp_path)
    assert str(error.value).splitlines()[2] == advice


def test_filters_that_leave_nothing_of_any_caption_are_told(pictures: Path, tmp_path: Path) -> None:
    entry = {"id": "a", "instance_data_dir": str(pictures)}

    def filtered(*filters: str) -> None:
        opened(entry, {"id": "t", "dataset_type": "text_embeds", "caption_filter_list": list(filters)}, cache=tmp_path)

    with pytest.raises(DataError, match="data set 'a': caption_filter_list takes everything out of its captions"):
        filtered(".*")
    filtered("red cat", "dog")


def test_caption_files_that_nobody_asked_for_are_told(pictures: Path, tmp_path: Path) -> None:
    for name in ("dog", "nobody"):
        (pictures / f"{name}.txt").write_text("a dog")

    def said(**options: str) -> list[str]:
        heard = Recorded()
        entry = {"id": "a", "instance_data_dir": str(pictures), "train_batch_size": 1, **options}
        opened(entry, cache=tmp_path, reporter=heard)
        return heard.texts()

    for _ in range(2):
        (told,) = said()
        assert told.startswith("data set 'a': 1 image has a .txt file that is not read")
    assert said(caption_strategy="filename") == said(caption_strategy="instanceprompt", instance_prompt="x") == []


def test_images_that_become_far_larger_than_others_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {"a.png": (64, 64), "b.png": (64, 64), "c.png": (640, 64), "d.png": (640, 64)})
    heard = Recorded()
    opened({"id": "a", "instance_data_dir": str(root), "resolution_type": "pixel"}, cache=tmp_path, reporter=heard)
    assert heard.texts() == [
        "data set 'a': its thinnest images become 640x64 pixels, 10 times as many as a square has, and training on "
        "them needs that much more memory; maximum_aspect_ratio leaves such images out"
    ]


@pytest.mark.parametrize("fallback", [{}, {"caption_fallback": "a picture"}])
def test_every_file_that_is_no_caption_is_named_in_the_same_report(tmp_path: Path, fallback: dict[str, str]) -> None:
    root = folder(tmp_path / "pictures", {f"{i}.png": (64, 64) for i in range(3)})
    for i in range(3):
        (root / f"{i}.txt").write_text("x" * (300_000 if i else 3))
    raw = {"id": "a", "instance_data_dir": str(root), "caption_strategy": "textfile", **fallback}
    for _ in range(2):  # the second time from what is known of them
        with pytest.raises(DataError) as error:
            opened(raw, cache=tmp_path)
        why = "its .txt file has more than 262 kB, and no caption is that long"
        assert str(error.value).splitlines()[:3] == [
            "data set 'a': 2 of its images have no caption:", f"  {root}/1.png: {why}", f"  {root}/2.png: {why}",
        ]  # fmt: skip
    for i in range(3):
        (root / f"{i}.txt").write_text("fine")
    (found,) = opened(raw, cache=tmp_path)
    assert {record.captions for record in found.records} == {("fine",)}


def test_a_table_that_is_wrong_about_a_size_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {"a.png": (96, 64)})
    table = tmp_path / "t.csv"
    table.write_text("file,w,h\na.png,96,999\n")
    columns = {"path": str(table), "filename_column": "file", "width_column": "w", "height_column": "h"}
    raw = {"id": "a", "instance_data_dir": str(root), "metadata_backend": "parquet", "parquet": columns}
    (found,) = opened(raw, cache=tmp_path)
    with pytest.raises(Unreadable) as error:
        found.image(found.records.at(0))
    assert str(error.value) == (
        f"{root}/a.png: table {table} says 96x999, but it has 96x64 pixels; correct the table, or leave width_column "
        f"and height_column out"
    )


def test_an_image_that_is_left_out_needs_no_caption(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {"large.png": (128, 128), "small.png": (32, 32)})
    (root / "large.txt").write_text("fine")
    raw = {"id": "a", "instance_data_dir": str(root), "caption_strategy": "textfile", "minimum_image_size": 64}
    (found,) = opened(raw, cache=tmp_path)
    assert len(found.records) == 1


def test_a_file_name_that_says_nothing_is_no_caption(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {"_.png": (64, 64)})
    with pytest.raises(DataError, match="1 of its images has no caption:\n.*caption_strategy filename gives no text"):
        opened({"id": "a", "instance_data_dir": str(root)}, cache=tmp_path)


def test_an_empty_folder_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError) as error:
        opened({"id": "a", "instance_data_dir": str(tmp_path / "pictures")}, cache=tmp_path)
    assert str(error.value) == (
        f"data set 'a' has no images: there is none in {tmp_path}/pictures. "
        f"Put images there, or change instance_data_dir."
    )


def test_a_data_set_that_loses_all_its_images_tells_how_many_and_why(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {f"{i}.png": (32, 32) for i in range(3)})
    raw = {"id": "a", "instance_data_dir": str(root), "minimum_image_size": 64}
    skip_list = tmp_path / "manifest" / "a.skipped.tsv"
    with pytest.raises(DataError) as error:
        opened(raw, cache=tmp_path)
    assert str(error.value) == (
        f"data set 'a' has no images: all 3 are smaller than minimum_image_size (64 px). "
        f"Change or remove minimum_image_size; the files are listed in {skip_list}."
    )
    (root / "empty.png").touch()
    with pytest.raises(DataError) as error:
        opened(raw, cache=tmp_path)
    assert str(error.value).startswith(
        "data set 'a' has no images: 3 are smaller than minimum_image_size (64 px), 1 are not readable as an image. "
    )


def damaged(root: Path) -> Path:
    """A picture with a whole head and half a body."""
    path = root / "damaged.jpg"
    save(path, (512, 512), seed=7)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def test_an_image_that_turns_out_to_be_damaged_is_named_and_stays_out(pictures: Path, tmp_path: Path) -> None:
    path = damaged(pictures)
    (pictures / "copy.jpg").write_bytes(path.read_bytes())
    raw = {"id": "a", "instance_data_dir": str(pictures)}
    (found,) = opened(raw, cache=tmp_path)
    (record,) = (record for record in found.records if record.key == "damaged.jpg")
    with pytest.raises(Unreadable, match=f"^{path}: it is damaged"):
        found.image(record)
    reporter = Recorded()
    left = found.without({"damaged.jpg": f"{path}: it is damaged"}, reporter)
    skip_list = tmp_path / "manifest" / "a.skipped.tsv"
    assert len(left.records) == 3
    assert reporter.texts() == [f"data set 'a': 2 more files are left out: not readable as an image; see {skip_list}"]
    assert skip_list.read_text().splitlines() == [
        f"{pictures / name}.jpg\tnot readable as an image\tit is damaged" for name in ("copy", "damaged")
    ]
    (again,) = opened(raw, cache=tmp_path)
    assert len(again.records) == 3
    save(path)
    (mended,) = opened(raw, cache=tmp_path)
    assert len(mended.records) == 4


def test_pixels_do_not_depend_on_what_else_is_in_the_data_set(pictures: Path, tmp_path: Path) -> None:
    (found,) = opened({"id": "a", "instance_data_dir": str(pictures)}, cache=tmp_path)
    save(pictures / "zebra.png", (640, 640), seed=5)
    (later,) = opened({"id": "a", "instance_data_dir": str(pictures)}, cache=tmp_path)
    assert np.array_equal(found.image(found.records[0]), later.image(later.records[0]))


def test_an_id_may_hold_what_a_file_name_may_not(pictures: Path, tmp_path: Path) -> None:
    opened({"id": "../a/b", "instance_data_dir": str(pictures)}, cache=tmp_path / "cache")
    assert [path.parent for path in tmp_path.rglob("*.parquet")] == [tmp_path / "cache" / "manifest"]


def test_what_takes_part_depends_on_the_kind_of_data_set(pictures: Path, tmp_path: Path) -> None:
    own = folder(tmp_path / "own", {"x.png": (64, 64)})
    found = opened_whole(
        {"id": "a", "instance_data_dir": str(pictures)},
        {"id": "e", "instance_data_dir": str(own), "dataset_type": "eval"},
        {"id": "off", "instance_data_dir": str(own), "disabled": True},
        cache=tmp_path,
    )
    assert [dataset.id for dataset in found.training] == ["a"]
    assert [dataset.id for dataset in found.evaluation] == ["e"]
    assert [dataset.id for dataset in found.whole] == [dataset.id for dataset in found.encoded] == ["a", "e"]


def test_matched_images_are_used_as_often_as_all_others_together(tmp_path: Path) -> None:
    prior = {"is_regularisation_data": True, "regularisation_mode": "prior", "prior_loss_weight": 0.5}
    sizes = {f"{number}.png": (64, 64) for number in range(5)}
    raw = [
        {"id": "a", "instance_data_dir": str(folder(tmp_path / "a", sizes)), "repeats": 3},
        {"id": "b", "instance_data_dir": str(folder(tmp_path / "b", sizes))},
        {"id": "r", "instance_data_dir": str(folder(tmp_path / "r", sizes)), **prior, "match_count": True},
        {"id": "s", "instance_data_dir": str(folder(tmp_path / "s", sizes)), **prior},
        {"id": "t", "instance_data_dir": str(folder(tmp_path / "t", sizes)), "is_regularisation_data": True},
    ]
    found = opened(*raw, cache=tmp_path)
    assert [dataset.uses for dataset in found] == [None, None, 35, None, None]
    assert [dataset.loss_weight for dataset in found] == [1.0, 1.0, 0.5, 0.5, 1.0]
    assert [dataset.regularise for dataset in found] == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("raw", "window"),
    [
        ({}, Window()),
        ({"start_epoch": 0, "start_step": 0, "end_epoch": 0, "end_step": -1}, Window()),
        ({"start_epoch": 1, "start_step": 1, "end_epoch": 3, "end_step": 100}, Window(1, 3, 1, 100)),
    ],
)
def test_windows_count_from_one_and_nothing_means_no_end(
    pictures: Path, tmp_path: Path, raw: dict[str, int], window: Window
) -> None:
    (found,) = opened({"id": "a", "instance_data_dir": str(pictures), **raw}, cache=tmp_path)
    assert found.window == window


def test_a_fallback_stands_in_for_missing_captions(pictures: Path, tmp_path: Path) -> None:
    (pictures / "dog.txt").write_text("a dog")
    raw = {"id": "a", "instance_data_dir": str(pictures), "caption_strategy": "textfile", "caption_fallback": "thing"}
    (found,) = opened(raw, cache=tmp_path)
    assert [record.captions for record in found.records] == [("a dog",), ("thing",), ("thing",)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("___.png", {}),
        ("_ _.png", {}),
        ("名前.png", {}),
        ("-.png", {}),
        ("x y.png", {"caption_strategy": "textfile"}),
        ("x.png", {"caption_strategy": "textfile", "text": " \n\t\ufeff "}),
        ("x.png", {"caption_strategy": "textfile", "text": "\n名\n"}),
        ("x.png", {"caption_strategy": "textfile", "text": "a"}),
        ("x.png", {"caption_strategy": "instanceprompt", "instance_prompt": "p"}),
    ],
)
def test_a_caption_is_missed_exactly_when_there_is_none(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    root = folder(tmp_path / "pictures", {name: (64, 64)})
    if text := options.get("text"):
        (root / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    raw = {"id": "a", "instance_data_dir": str(root), **{key: options[key] for key in options if key != "text"}}
    rules = caption_rules(Local(**raw), DataDefaults())
    if stated(name, (text,) if text else None, rules):
        (found,) = opened(raw, cache=tmp_path)
        assert found.records[0].captions
    else:
        with pytest.raises(DataError, match="1 of its images has no caption"):
            opened(raw, cache=tmp_path)


def test_faces_are_looked_for_once_and_only_where_they_are_wanted(pictures: Path, tmp_path: Path) -> None:
    plain = {"id": "a", "instance_data_dir": str(pictures)}
    raw = {**plain, "crop": True, "crop_style": "face"}
    stages = []
    for entry in (plain, raw, raw):
        reporter = Recorded()
        opened(entry, cache=tmp_path, reporter=reporter)
        stages.append([event.total for event in reporter.events if isinstance(event, StageStarted)])
    assert stages == [[0, 3, 3], [0, 3], [0]]


def test_the_same_images_under_another_id_are_not_read_again(pictures: Path, tmp_path: Path) -> None:
    raw = {"id": "a", "instance_data_dir": str(pictures)}
    opened(raw, cache=tmp_path)
    reporter = Recorded()
    opened(raw, raw | {"id": "b", "resolution": 128}, cache=tmp_path, reporter=reporter)
    assert [event.total for event in reporter.events if isinstance(event, StageStarted)] == [0, 0]


def test_a_cache_that_cannot_be_written_is_told_with_the_place(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write .*blocked/manifest/a.parquet: .*A file is in the way"):
        opened({"id": "a", "instance_data_dir": str(pictures)}, cache=blocked(tmp_path))


def blocked(folder: Path) -> Path:
    """A cache folder that nothing can be written into, for root neither."""
    (folder / "blocked").mkdir()
    (folder / "blocked" / "manifest").touch()
    return folder / "blocked"


def test_a_table_says_what_images_are_and_is_told_where_it_does_not_fit(pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("file,text,w,h\ndog.png,a dog,64,64\nred_cat.jpg,a cat,96,64\nowl.png,an owl,64,64\n")
    columns = {"path": str(table), "filename_column": "file", "caption_column": "text"}
    columns |= {"width_column": "w", "height_column": "h", "identifier_includes_extension": True}
    raw = {"id": "a", "instance_data_dir": str(pictures), "metadata_backend": "parquet", "parquet": columns}
    reporter = Recorded()
    (found,) = opened(raw | {"caption_strategy": "parquet"}, cache=tmp_path, reporter=reporter)
    assert [(record.key, record.captions) for record in found.records] == [
        ("dog.png", ("a dog",)), ("red_cat.jpg", ("a cat",)),
    ]  # fmt: skip
    ((key, reason, _),) = found.skipped
    assert (key, "not in table" in reason) == ("fox.png", True)
    assert any("owl.png" in text and text.startswith("data set 'a'") for text in reporter.texts())
    table.write_text("file,text,w,h\ndog.png,another dog,64,64\nred_cat.jpg,a cat,96,64\nfox.png,a fox,256,64\n")
    (later,) = opened(raw | {"caption_strategy": "parquet"}, cache=tmp_path)
    assert [record.captions for record in later.records] == [("another dog",), ("a fox",), ("a cat",)]
    (plain,) = opened({"id": "a", "instance_data_dir": str(pictures)}, cache=tmp_path)
    assert [record.captions for record in plain.records] == [("dog",), ("fox",), ("red cat",)]


def test_buckets_do_not_depend_on_when_images_were_added(tmp_path: Path) -> None:
    """Records and buckets after a scan in two parts are those of a scan in one."""
    root = folder(tmp_path / "pictures", {f"{number}.png": (64 + 32 * number, 64) for number in range(0, 8, 2)})
    raw = {"id": "a", "instance_data_dir": str(root)}
    opened(raw, cache=tmp_path / "grown")
    for number in range(1, 8, 2):
        save(root / f"{number}.png", (64 + 32 * number, 64), seed=number)
    (grown,), (whole,) = opened(raw, cache=tmp_path / "grown"), opened(raw, cache=tmp_path / "whole")
    assert list(grown.records) == list(whole.records)
    assert grown.buckets == whole.buckets


def test_what_is_wrong_with_several_data_sets_is_told_at_once(tmp_path: Path) -> None:
    folder(tmp_path / "silent", {"a.png": (64, 64)})
    (tmp_path / "empty").mkdir()
    silent = {"id": "silent", "instance_data_dir": str(tmp_path / "silent"), "caption_strategy": "textfile"}
    with pytest.raises(DataError, match=r"(?s)data set 'silent': 1 of its .*data set 'empty' has no images"):
        opened(silent, {"id": "empty", "instance_data_dir": str(tmp_path / "empty")}, cache=tmp_path)


def test_an_image_that_changes_between_a_scan_and_its_use_is_never_used(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {"a.png": (64, 64)})
    (found,) = opened({"id": "a", "instance_data_dir": str(root)}, cache=tmp_path)
    save(root / "a.png", (64, 64), seed=9)
    with pytest.raises(DataError, match="a.png has changed since it was looked at"):
        found.image(found.records[0])


def test_a_full_cache_may_lie_on_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures", {"a.png": (64, 64), "broken.png": (64, 64)})
    (root / "broken.png").write_bytes(b"no picture")
    raw = {"id": "a", "instance_data_dir": str(root)}
    opened(raw, cache=tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    opened(raw, cache=tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before
