"""Documentation that is made from the schema is the one that is committed, and says something about everything."""

import json
import re
from pathlib import Path

import pytest

from simpletuner.config import OWNER, SECTIONS
from simpletuner.data.generators import GENERATORS, Generator, JpegArtifacts, RandomMasks
from simpletuner.data.sources import SOURCES, DataBackend, HuggingFace
from simpletuner.data.sources.huggingface import RowFilter
from simpletuner.describing import in_one_line, option_text, type_of
from simpletuner.docs import rendered
from simpletuner.json_schema import json_schema
from simpletuner.legacy import INVERTED, RENAMED
from simpletuner.schema import Section, choice_of

FIELDS = {name: field for section in SECTIONS.values() for name, field in section.model_fields.items()}


def test_every_generated_file_is_up_to_date(root: Path) -> None:
    outdated = [path.name for path, text in rendered(root).items() if path.read_text(encoding="utf-8") != text]
    assert outdated == [], "run scripts/docs"


@pytest.mark.parametrize("name", sorted(OWNER))
def test_an_option_is_on_its_page_with_a_full_sentence(root: Path, name: str) -> None:
    page = (root / "documentation" / "OPTIONS.md").read_text(encoding="utf-8")
    said = in_one_line(FIELDS[name].description or "")
    assert f"`{name}`" in page
    assert re.fullmatch(r"[A-Z].{12,}\.", said), f"{name}: {said!r} is no sentence"
    assert len(said.split()) >= 3
    assert said.replace("|", "\\|") in page


@pytest.mark.parametrize("name", sorted({name for section in SOURCES.values() for name in section.model_fields}))
def test_an_option_of_a_data_set_is_on_its_page(root: Path, name: str) -> None:
    assert f"`{name}`" in (root / "documentation" / "DATALOADER.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*GENERATORS, *GENERATORS.later])
def test_a_generator_is_on_the_page_under_each_of_its_names(root: Path, name: str) -> None:
    page = (root / "documentation" / "DATALOADER.md").read_text(encoding="utf-8")
    part = page.partition("## Keys of generators")[2]
    assert f'`"conditioning": {{"type": "{name}"}}`' in part or f"`{name}`" in part


@pytest.mark.parametrize("section", dict.fromkeys(GENERATORS.values()), ids=lambda section: section.name)
def test_an_option_of_a_generator_is_on_its_page_with_a_full_sentence(root: Path, section: type[Generator]) -> None:
    page = (root / "documentation" / "DATALOADER.md").read_text(encoding="utf-8")
    table = page.partition(f'"conditioning": {{"type": "{section.name}"}}')[2].partition("\n## ")[0]
    for name, field in section.model_fields.items():
        assert f"| `{name}` |" in table
        assert re.fullmatch(r"[A-Z].{8,}\.", field.description or ""), name


@pytest.mark.parametrize(
    ("section", "name", "said"),
    [
        (DataBackend, "resolution", "number, above 0"),
        (DataBackend, "crop_aspect_buckets", "list of numbers or objects"),
        (DataBackend, "conditioning_data", "list of texts"),
        (DataBackend, "conditioning", "list of objects"),
        (DataBackend, "caption_pipeline", "object"),
        (HuggingFace, "dataset_name", "text"),
        (RowFilter, "quality_thresholds", "object of numbers"),
        (JpegArtifacts, "quality_range", "list of 2 whole numbers"),
        (RandomMasks, "mask_types", "list of these"),
    ],
)
def test_what_may_be_written_is_said_in_plain_words(section: type[Section], name: str, said: str) -> None:
    assert type_of(section.model_fields[name]) == said


def test_every_choice_has_a_meaning_and_every_refused_one_an_advice() -> None:
    for name, field in FIELDS.items():
        choice = choice_of(field)
        for one in choice or ():
            assert choice is not None
            assert choice.summary(one).endswith("."), f"{name}: {one}"
        for one, advice in (choice.later if choice else {}).items():
            assert advice, f"{name}: {one}"


def test_the_command_line_shows_an_option_with_default_choices_and_what_is_not_served() -> None:
    text = option_text("lr_scheduler", FIELDS["lr_scheduler"])
    assert text.startswith("lr_scheduler")
    assert '"constant_with_warmup"' in text
    assert re.search(r"cosine +Falls along half a cosine wave", text)
    assert re.search(r"cosine_with_restarts +Falls to `lr_end` along half a cosine wave", text)
    later = option_text("optimizer", FIELDS["optimizer"])
    assert (
        "not served yet, it is for sparse gradients, which no layer here has; use torch-adam: torch-sparseadam" in later
    )
    assert re.search(r"bnb-adamw8bit .*Also called AdamW8bit,", later)


def test_the_meanings_of_choices_stand_in_one_column() -> None:
    lines = option_text("flux_lora_target", FIELDS["flux_lora_target"]).splitlines()[2:]
    assert {len(re.findall(r"^ +\S+ +", line)[0]) for line in lines} == {4 + len("all+ffs+embedder+controlnet") + 1}


def test_editors_know_every_option_with_and_without_dashes_and_the_older_names() -> None:
    known = json_schema()["properties"]
    assert {*OWNER, *(f"--{name}" for name in OWNER)} <= known.keys()
    assert {*RENAMED, *INVERTED} <= known.keys()


def test_every_reference_inside_the_schema_leads_somewhere() -> None:
    schema = json_schema()
    for place in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(schema))):
        found = schema
        for part in place.split("/"):
            found = found[part]
        assert found
