"""How the shapes for crop_aspect closest and random may be written."""

import pytest
from pydantic import TypeAdapter, ValidationError

from simpletuner.data.geometry.aspects import AspectBuckets

READER = TypeAdapter(AspectBuckets)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ()),
        ([1], ((1.0, 1.0),)),
        (["0.75", 1.5], ((0.75, 0.5), (1.5, 0.5))),
        ([{"aspect": 1.0, "weight": 0.25}, {"aspect_ratio": 1.5, "weight": 0.75}], ((1.0, 0.25), (1.5, 0.75))),
        ([{"aspect_bucket": 1.0}, 2], ((1.0, 0.5), (2.0, 0.5))),
        ([1.0, 0.5, {"aspect": 2.0, "weight": 0.5}], ((1.0, 0.25), (0.5, 0.25), (2.0, 0.5))),
        ([[1.0, 0.25], [1.5, 0.75]], ((1.0, 0.25), (1.5, 0.75))),
    ],
)
def test_shapes_are_numbers_or_objects_with_weights(given: object, expected: object) -> None:
    assert READER.validate_python(given) == expected


def test_weights_that_nearly_sum_to_one_are_taken_for_shares() -> None:
    read = READER.validate_python([{"aspect": n, "weight": 0.333} for n in (1, 2, 3)])
    assert [weight for _, weight in read] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("given", [[0.75, 1.0], [{"aspect": 1.0, "weight": 0.25}, {"aspect": 1.5, "weight": 0.75}]])
def test_what_was_read_can_be_saved_and_read_again(given: object) -> None:
    read = READER.validate_python(given)
    assert READER.validate_json(READER.dump_json(read)) == read


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (1.5, "must be a list such as"),
        ([0], "each aspect ratio must be a number above 0, got 0"),
        ([True], "each aspect ratio must be a number above 0, got True"),
        (["wide"], "each aspect ratio must be a number above 0, got 'wide'"),
        ([{"aspect": 1, "weight": -1}], "each weight must be a number above 0, got -1"),
        ([{"aspect": 1, "weight": 1}, 2], "the weights sum to 1, which leaves nothing for shapes without a weight"),
        ([{"aspect": 1, "weight": 0.5}, {"aspect": 2, "weight": 0.6}], "must sum to 1, but their sum is 1.1"),
        ([{"ratio": 1}], "an object must look like"),
        ([{"aspect": 1, "wieght": 1}], "an object must look like"),
    ],
)
def test_mistakes_are_named(given: object, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        READER.validate_python(given)
