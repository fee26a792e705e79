"""Every data file that the pages about data show is one that training takes as it stands."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from simpletuner.data.checks import check_entries
from simpletuner.data.entries import read_entries, remarks
from simpletuner.data.options import DataDefaults
from simpletuner.files import filled

ROOT = Path(__file__).parent.parent
PAGES = ("DATALOADER.md", "KOHYA_DATA.md")
KOHYA = ROOT / "config" / "examples" / "kohya-data" / "multidatabackend.json"


def shown(page: str) -> list[Any]:
    """What the blocks of JSON on a page hold, in order: a whole data file, or one entry of it."""
    text = (ROOT / "documentation" / page).read_text(encoding="utf-8")
    return [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]


def data_file(block: Any) -> list[Any]:
    """A whole data file; an entry that stands alone gets a data set to train on beside it."""
    return block if isinstance(block, list) else [block, {"id": "beside", "instance_data_dir": "datasets/beside"}]


@pytest.mark.parametrize("block", [block for page in PAGES for block in shown(page)], ids=lambda block: "data")
def test_a_data_file_on_a_page_can_be_used(block: Any) -> None:
    variables = {name: "set" for name in re.findall(r"\{env:(\w+)\}", json.dumps(block))}
    entries, found = read_entries(filled(data_file(block), variables, []))
    assert [*found, *check_entries(entries, DataDefaults()), *remarks(entries)] == []


def test_the_pages_show_something() -> None:
    assert all(shown(page) for page in PAGES)


def test_the_example_for_users_of_sd_scripts_is_the_one_on_their_page() -> None:
    assert json.loads(KOHYA.read_text(encoding="utf-8")) in shown("KOHYA_DATA.md")
