"""Documentation that is made from the schema is the one that is committed, and says something about everything."""

import json
import re
from pathlib import Path

import pytest

from simpletuner.config import OWNER, SECTIONS
from simpletuner.data.sources import SOURCES
from simpletuner.docs import json_schema, option_text, rendered
from simpletuner.legacy import INVERTED, RENAMED
from simpletuner.schema import choice_of

FIELDS = {name: field for section in SECTIONS.values() for name, field in section.model_fields.items()}


def test_every_generated_file_is_up_to_date(root: Path) -> None:
    outdated = [path.name for path, text in rendered(root).items() if path.read_text(encoding="utf-8") != text]
    assert outdated == [], "run scripts/docs"


@pytest.mark.parametrize("name", sorted(OWNER))
def test_an_option_is_on_its_page_with_a_full_sentence(root: Path, name: str) -> None:
    page = (root / "documentation" / "OPTIONS.md").read_text(encoding="utf-8")
    said = FIELDS[name].description or ""
    assert f"`{name}`" in page
    assert re.fullmatch(r"[A-Z].{12,}\.", said), f"{name}: {said!r} is no sentence"
    assert len(said.split()) >= 3
    assert said.replace("|", "\\|") in page


@pytest.mark.parametrize("name", sorted({name for section in SOURCES.values() for name in section.model_fields}))
def test_an_option_of_a_data_set_is_on_its_page(root: Path, name: str) -> None:
    assert f"`{name}`" in (root / "documentation" / "DATALOADER.md").read_text(encoding="utf-8")


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
    assert "use cosine: cosine_with_restarts, sine" in text


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
