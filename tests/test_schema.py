"""Tables of choices: what a user wrote is taken as one of them when it can mean only that one."""

import pytest
from pydantic_core import PydanticCustomError

from simpletuner.schema import Choice

TABLE = Choice(
    "thing", {"one_two": 1, "Plain": 2, "plain": 3, "other": 4}, later={"late": "wait"}, aliases={"Other": "plain"}
)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("one_two", "one_two"), ("One-Two", "one_two"), ("plain", "plain"), ("Plain", "Plain"), (" LATE ", "late")],
)
def test_capitals_and_hyphens_do_not_matter_where_one_name_is_left(written, meant):
    assert TABLE.check(written) == meant


def test_a_name_of_another_program_goes_before_one_of_ours_that_is_not_spelled_exactly():
    assert [TABLE.check(name) for name in ("other", "Other", "OTHER")] == ["other", "plain", "plain"]


@pytest.mark.parametrize("written", ["PLAIN", "one two", "onetwo", "", None, False])
def test_what_may_mean_several_things_or_none_is_refused(written):
    with pytest.raises(PydanticCustomError, match="no thing is called"):
        TABLE.check(written)
