"""A name tells what an entry was made of, and what a missing one has in common with those that are there."""

from hypothesis import given
from hypothesis import strategies as st

from simpletuner.caching.naming import Name, Reasons, hash_of_content, is_of_an_earlier_version, parsed, reasons
from simpletuner.caching.tensors import TensorCache
from simpletuner.storage.memory import MemoryStore


def key(content, plan="", recipe="recipe"):
    return TensorCache(MemoryStore(), recipe).key(content, plan)


@given(st.text(), st.text(), st.text())
def test_every_name_can_be_taken_apart_again(content, plan, recipe):
    name = key(content, plan, recipe)
    found = parsed(name)
    assert found is not None and found.key == name and found.content == hash_of_content(content)


def test_content_plan_and_recipe_each_decide_the_name():
    names = {key("a"), key("b"), key("a", "b"), key("b", "a"), key("a", "", "other"), key("", "a")}
    assert len(names) == 6


def test_foreign_files_are_not_taken_for_entries():
    ours = key("a")
    hexadecimal = "0" * 32
    foreign = [
        "a.png",
        "cat/dog.safetensors",
        "ab12-flux.pt",
        f"sub/{ours}",
        f"{ours}.part",
        ours.replace(ours[:2] + "/", "zz/"),
        f"01/{hexadecimal}-{hexadecimal[:16]}-{hexadecimal[:16]}.safetensors",
    ]
    assert [name for name in foreign if parsed(name) or is_of_an_earlier_version(name)] == []
    assert is_of_an_earlier_version(f"00/{hexadecimal}.safetensors")


def test_what_is_missing_is_new_or_placed_otherwise_or_encoded_otherwise():
    present = [key("crop", "old plan"), key("encoder", "plan", "old"), key("both", "old plan", "old")]
    missing = [key("crop", "plan"), key("encoder", "plan"), key("both", "plan"), key("new", "plan"), key("new 2")]
    found = reasons(missing, present)
    assert found == Reasons(new=2, plan=1, recipe=2)
    assert str(found) == "2 new, 1 because crop or resolution changed, 2 because the encoder changed"
    assert found.total == 5


def test_reasons_add_up():
    assert Reasons(1, 2, 3) + Reasons(10, 20, 30) == Reasons(11, 22, 33)
    assert str(Reasons(new=1200)) == "1,200 new" and not str(Reasons())


def test_a_name_is_a_path_in_a_folder_of_its_first_digits():
    assert Name("ab" + "0" * 30, "1" * 16, "2" * 16).key == f"ab/ab{'0' * 30}-{'1' * 16}-{'2' * 16}.safetensors"
