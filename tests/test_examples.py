"""Every config that comes along can be used as it is."""

import json
import re
import shutil
from pathlib import Path

import pytest

from simpletuner.config import DEMO_VARIABLES, Reading, read
from simpletuner.data.checks import check_entries
from simpletuner.data.entries import read_entries
from simpletuner.data.options import DataDefaults
from simpletuner.data.remarks import remarks
from simpletuner.training.prompts import library

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*/config.*"))
TEMPLATES = sorted((ROOT / "config").glob("*.example"))
ADDRESSES = ("ENDPOINT", "WEBHOOK")
DATA_TEMPLATES = [path for path in TEMPLATES if path.name.startswith("multidatabackend")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder whose config/ holds the templates under the names they are meant to get."""
    (tmp_path / "config").mkdir()
    for path in TEMPLATES:
        shutil.copy(path, tmp_path / "config" / path.name.removesuffix(".example"))
    return tmp_path


def reading(checkout: Path, *words: str) -> Reading:
    return read(checkout / "config" / "config.json", words, environment={}, folder=checkout)


def test_there_are_examples_and_templates() -> None:
    assert EXAMPLES
    assert {"config.json.example", "multidatabackend.json.example"} <= {path.name for path in TEMPLATES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_loads_without_a_problem_or_a_notice(path: Path) -> None:
    found = read(path, environment=variables(path.parent), folder=ROOT)
    assert (found.problems, found.notices) == ((), ())
    assert (path.parent / "README.md").is_file()


def variables(folder: Path) -> dict[str, str]:
    """The environment variables that the files of an example name, each set to something."""
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.json")]
    named = {name for text in texts for name in re.findall(r"\{env:(\w+)\}", text)} - DEMO_VARIABLES.keys()
    return {name: "https://example.com" if name.endswith(ADDRESSES) else "set" for name in sorted(named)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_a_description_names_every_variable_and_folder_of_its_example(path: Path) -> None:
    said = (path.parent / "README.md").read_text(encoding="utf-8")
    entries = json.loads((path.parent / "multidatabackend.json").read_text(encoding="utf-8"))
    folders = {entry["instance_data_dir"] for entry in entries if "instance_data_dir" in entry}
    assert [name for name in {*variables(path.parent), *folders} if name not in said] == []


def test_the_template_loads_with_the_files_it_names(checkout: Path) -> None:
    (checkout / "config" / "config.env").unlink(missing_ok=True)
    found = reading(checkout)
    assert (found.problems, found.notices) == ((), ())
    assert found.config.run.output_dir == Path("output/subject")


def test_the_template_is_for_a_card_of_24_gigabytes_and_thirty_pictures(checkout: Path) -> None:
    config = reading(checkout).config
    assert config.precision.base_model_precision == "int8-quanto"
    assert config.memory.gradient_checkpointing
    assert config.duration.train_batch_size == 1
    assert config.duration.max_train_steps == 1500


@pytest.mark.parametrize("path", DATA_TEMPLATES, ids=lambda path: path.name)
def test_a_data_template_can_be_used_once_its_folder_is_there(path: Path) -> None:
    entries, found = read_entries(json.loads(path.read_text()))
    assert [*found, *check_entries(entries, DataDefaults()), *remarks(entries, DataDefaults())] == []


def test_the_prompt_template_holds_prompts() -> None:
    assert len(library(ROOT / "config" / "user_prompt_library.json.example")) >= 3


@pytest.mark.parametrize("path", [*EXAMPLES, *TEMPLATES], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_schema_that_a_config_names_is_there(path: Path) -> None:
    if path.suffix == ".json" or path.name == "config.json.example":
        named = json.loads(path.read_text()).get("$schema")
        assert named is None or (path.parent / named).is_file()
