"""The pages about data are true: what they show is a data file that training takes, what they name is an option."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from simpletuner.config import OWNER
from simpletuner.data.checks import check_entries
from simpletuner.data.entries import read_entries
from simpletuner.data.generators import GENERATORS
from simpletuner.data.options import DataDefaults
from simpletuner.data.remarks import remarks
from simpletuner.data.sections import CaptionPipeline, CaptionShuffle, ParquetColumns
from simpletuner.data.sources import SOURCES
from simpletuner.data.sources.huggingface import HubColumns
from simpletuner.files import filled
from simpletuner.schema import choice_of

ROOT = Path(__file__).parent.parent
DATALOADER = ROOT / "documentation" / "DATALOADER.md"
KOHYA = ROOT / "documentation" / "KOHYA_DATA.md"
SECTIONS = [*SOURCES.values(), *GENERATORS.values(), CaptionPipeline, CaptionShuffle, ParquetColumns, HubColumns]


def shown(page: Path) -> list[Any]:
    """What the blocks of JSON on a page hold, in order: a whole data file, or one entry of it."""
    blocks = re.findall(r"^```json\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [json.loads(block) for block in blocks]


def data_file(block: Any) -> list[Any]:
    """A whole data file; an entry that stands alone gets a data set to train on beside it."""
    return block if isinstance(block, list) else [block, {"id": "beside", "instance_data_dir": "datasets/beside"}]


@pytest.mark.parametrize("block", [*shown(DATALOADER), *shown(KOHYA)], ids=lambda block: data_file(block)[0]["id"])
def test_a_data_file_on_a_page_can_be_used(block: Any) -> None:
    variables = dict.fromkeys(re.findall(r"\{env:(\w+)\}", json.dumps(block)), "set")
    entries, found = read_entries(filled(data_file(block), variables, []))
    assert [*found, *check_entries(entries, DataDefaults()), *remarks(entries, DataDefaults())] == []


def test_the_example_for_users_of_sd_scripts_is_the_one_on_their_page() -> None:
    example = ROOT / "config" / "examples" / "kohya-data" / "multidatabackend.json"
    assert shown(KOHYA) == [json.loads(example.read_text(encoding="utf-8"))]


def known_words() -> set[str]:
    """Every option of a run or a data set, and every choice of one."""
    fields = [field for section in SECTIONS for field in section.model_fields.items()]
    choices = {word for _, field in fields for word in (choice_of(field) or ())}
    return {*OWNER, *(name for name, _ in fields), *choices, *SOURCES.caches}


def named(text: str) -> set[str]:
    """Whatever looks like an option in the code of a text."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    return {word for span in spans for word in re.findall(r"(?<![\w./-])[a-z]+(?:_[a-z]+)+(?![\w./])", span)}


def test_the_page_about_data_sets_names_options_that_there_are() -> None:
    prose = DATALOADER.read_text(encoding="utf-8").partition("<!-- generated: begin -->")[0]
    assert named(prose) - known_words() == {"save_to_disk"}  # a function of the library datasets


def test_the_page_for_users_of_sd_scripts_leads_to_options_that_there_are() -> None:
    rows = re.findall(r"^\| (.+) \| (.*) \| (.*) \|$", KOHYA.read_text(encoding="utf-8"), re.MULTILINE)
    same = {word for theirs, ours, _ in rows if ours.startswith("the same") for word in named(theirs)}
    assert {*same, *(word for _, ours, note in rows for word in named(f"{ours} {note}"))} <= known_words()
    assert len(same) > 15
