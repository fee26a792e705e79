"""Records made from columns when they are asked for: whichever way one asks, they are the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletuner.data import captions, geometry
from simpletuner.data.captions import Use
from simpletuner.data.items import Size
from simpletuner.data.manifest import Row
from simpletuner.data.records import Placer, Records, unique_sizes

from .made import manifest, records

ROWS = [
    Row("a.png", "1", 9, 512, 512, digest="d1", captions=["one", "two"]),
    Row("b.png", "2", 9, 1024, 512, digest="d2", captions=["three"]),
    Row("c.png", "3", 9, 700, 700, digest="d3", captions=["four"]),
]


def test_a_record_is_the_same_whichever_way_it_is_asked_for() -> None:
    found = records(ROWS)
    assert list(found) == [found[0], found[1], found[2]] == found[:] == [found.at(index) for index in range(3)]
    assert found[-1] == found[2] and found[1:] == [found[1], found[2]]
    assert [found.key(index) for index in range(3)] == found.all_keys() == ["a.png", "b.png", "c.png"]
    assert found.digests() == ["d1", "d2", "d3"]
    assert found[0].captions == ("one", "two")
    with pytest.raises(IndexError):
        found[3]
    with pytest.raises(IndexError):
        found[-4]


def test_buckets_are_counted_and_agree_with_placements() -> None:
    found = records(ROWS)
    assert found.buckets() == {Size(512, 512): 2, found[1].placement.bucket: 1}
    assert [found.bucket_sizes[number] for number in found.bucket_of] == [one.placement.bucket for one in found]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), max_size=12), st.booleans(), st.data())
def test_columns_agree_with_records_for_all_sizes_and_any_part_of_them(
    sizes: list[tuple[int, int]], crop: bool, data: st.DataObject
) -> None:
    shapes = {"crop_aspect": "random", "crop_aspect_buckets": ((1.0, 0.5), (2.0, 0.5))} if crop else {}
    style = data.draw(st.sampled_from(["center", "random"]))
    rows = [Row(f"{place:02}.png", "1", 9, *size, captions=["x"]) for place, size in enumerate(sizes)]
    whole = records(rows, crop=crop, **{**shapes, "crop_style": style})
    kept = data.draw(st.lists(st.integers(0, len(sizes) - 1), unique=True)) if sizes else []
    for found in (whole, whole.only(np.array(sorted(kept), dtype=np.int64))):
        assert [found.bucket_sizes[number] for number in found.bucket_of] == [one.placement.bucket for one in found]
        assert sum(found.buckets().values()) == len(found)
        assert all(found.buckets().values())


def test_following_records_repeat_the_geometry_number_by_number() -> None:
    leader = records(ROWS)
    follower = records([row._replace(width=100, height=100) for row in ROWS]).following(leader)
    assert [one.placement for one in follower] == [one.placement for one in leader]
    assert follower.bucket_sizes == leader.bucket_sizes
    assert follower.over(follower.manifest).follows is leader


def test_crops_are_drawn_anew_for_each_epoch_only_where_that_is_asked_for() -> None:
    rules = geometry.Rules(resolution=64, crop=True, crop_style="random")
    rows = [Row("a.png", "1", 9, 4096, 64, captions=["x"])]
    still, moving = (
        Records(manifest(*rows), np.arange(1), Placer(rules, 1, "a", redraws=redraws), captions.Rules("textfile"))
        for redraws in (False, True)
    )
    assert len({still.at(0, epoch).placement for epoch in range(5)}) == 1
    assert len({moving.at(0, epoch).placement for epoch in range(5)}) == 5
    assert len({moving.at(0, epoch).placement.bucket for epoch in range(5)}) == 1
    assert moving.at(0, 0) == still.at(0, 0) == moving[0]
    assert moving.at(0, 3) == moving.at(0, 3)


def test_the_caption_of_a_use_is_one_of_the_captions_of_the_record() -> None:
    found = records(ROWS)
    drawn = {found.caption(0, Use(sample, 1, 0, 0), seed=1) for sample in range(50)}
    assert drawn == {"one", "two"}


@pytest.mark.parametrize(
    ("strategy", "said", "unsure"),
    [
        ("textfile", ["x"], False),
        ("textfile", ["  ", "x"], False),
        ("textfile", ["名"], True),
        ("textfile", [" \n"], True),
        ("textfile", [], True),
        ("textfile", None, True),
        ("parquet", ["?"], False),
        ("filename", None, False),
        ("instanceprompt", ["x"], True),
    ],
)
def test_columns_tell_which_images_may_be_without_a_caption(
    strategy: str, said: list[str] | None, unsure: bool
) -> None:
    rows = [Row("deep/a_1.png", "1", 9, 64, 64, captions=said), Row("z.png", "1", 9, 64, 64, captions=["sure"])]
    found = records(rows, rules=captions.Rules(strategy)).unsure().tolist()
    assert (0 in found) == unsure


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.sampled_from(["png", "a b"])), max_size=6))
def test_no_image_without_a_caption_is_ever_taken_for_certain(names: list[tuple[str, str]]) -> None:
    clean = ["x/" + stem.encode("utf-8", "ignore").decode().replace("/", "").replace("\0", "") for stem, _ in names]
    rows = [
        Row(f"{key}.{ending}", "1", 9, 64, 64, captions=[key[2:], ending[3:]])
        for key, (_, ending) in zip(clean, names, strict=True)
    ]
    for strategy in ("filename", "textfile"):
        rules = captions.Rules(strategy)
        found = records(rows, rules=rules)
        silent = {
            index for index, row in enumerate(rows) if not captions.stated(row.key, tuple(row.captions or ()), rules)
        }
        assert silent <= set(found.unsure().tolist())


def test_sizes_are_told_apart_up_to_the_largest_ones() -> None:
    rows = [Row(str(place), "1", 9, *size) for place, size in enumerate([(1, 2), (2, 1), (1, 2), (2**31 - 1, 1)])]
    kinds, which = unique_sizes(manifest(*rows), np.arange(4))
    assert [kinds[number] for number in which] == [(1, 2), (2, 1), (1, 2), (2**31 - 1, 1)]
    assert len(kinds) == 3
