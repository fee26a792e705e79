"""What the sections say about themselves, written into the checkout: OPTIONS.md, DATALOADER.md, config/schema.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from simpletuner import json_schema
from simpletuner.config import SECTIONS
from simpletuner.data.generators import GENERATORS, Generator
from simpletuner.data.options import DataDefaults
from simpletuner.data.sources import CACHES, SOURCES, DataBackend, Embeds
from simpletuner.describing import SERVED, default_of, in_one_line, later_of, state_of, type_of
from simpletuner.schema import Section, choice_of
from simpletuner.storage.local import write_whole
from simpletuner.training.schedule_plots import drawn

ROOT = Path(__file__).parent.parent
BEGIN = "<!-- generated: begin -->"
END = "<!-- generated: end -->"


def main() -> None:
    """Write every generated file anew, in the checkout that this module lies in."""
    for path, text in rendered(ROOT).items():
        write_whole(path, text.encode())


def rendered(root: Path) -> dict[Path, str]:
    """Every generated file and what it should contain; what people wrote around the markers is kept."""
    options, dataloader = root / "documentation" / "OPTIONS.md", root / "documentation" / "DATALOADER.md"
    return {
        options: _between(options.read_text(encoding="utf-8"), options_tables()),
        dataloader: _between(dataloader.read_text(encoding="utf-8"), dataloader_tables()),
        root / "config" / "schema.json": json_schema.text(),
        root / "documentation" / "images" / "schedules.svg": drawn(),
    }


def _between(page: str, generated: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{generated}\n\n{END}{after}"


def options_tables() -> str:
    """One table for each section of the config file."""
    return "\n\n".join(_titled(name.replace("_", " ").capitalize(), section) for name, section in SECTIONS.items())


def dataloader_tables() -> str:
    """The keys that all data sets share, those of each type and generator, and the defaults in the config file."""
    shared = ("Keys of every data set", "Entries with images, of whatever type.", DataBackend)
    caches = ("Keys of every cache", "Entries with `dataset_type` " + _names(CACHES) + ".", Embeds)
    parts = [_table(title, said, section.model_fields) for title, said, section in (shared, caches)]
    parts += [_own_keys("type", name, section, DataBackend) for name, section in SOURCES.images.items()]
    parts += [_own_keys("dataset_type", name, section, Embeds) for name, section in CACHES.items()]
    parts += [_all_generators(), *(_generator(section, names) for section, names in _generators().items())]
    said = _first_line(DataDefaults) + " These are written in the config file."
    return "\n\n".join([*parts, _table("Defaults in the config file", said, DataDefaults.model_fields)])


def _names(table: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in table)


def _own_keys(key: str, name: str, section: type[Section], base: type[Section]) -> str:
    later = f" Not served yet: {section.not_yet}." if section.not_yet else ""
    said = _first_line(section) + later
    fields = {option: field for option, field in section.model_fields.items() if option not in base.model_fields}
    title = f'`"{key}": "{name}"`'
    return _table(title, said, fields) if fields else f"## {title}\n\n{said} It has no further keys."


def _all_generators() -> str:
    said = "What the entries of `conditioning` can make; their keys stand beside `type`, or in `params`."
    later = (f"Not served yet: {names}: {advice}." for advice, names in later_of(GENERATORS))
    return "\n\n".join(["## Keys of generators", said, *later])


def _generators() -> Mapping[type[Generator], Sequence[str]]:
    """Each generator with all of its names."""
    found: dict[type[Generator], list[str]] = {}
    for name, section in GENERATORS.items():
        found.setdefault(section, []).append(name)
    return found


def _generator(section: type[Generator], names: Sequence[str]) -> str:
    others = " and ".join(f"`{name}`" for name in names[1:])
    needs = "".join(f" Needs the module `{module}`: `{remedy}`." for module, remedy in section.needs.items())
    said = f"{_first_line(section)} Also called {others}. Mostly used as `{section.usual}`.{needs}"
    return _table(f'`"conditioning": {{"type": "{names[0]}"}}`', said, section.model_fields)


def _first_line(section: type[Section]) -> str:
    return (section.__doc__ or "").strip().partition("\n")[0]


def _titled(title: str, section: type[Section]) -> str:
    return _table(title, _first_line(section), section.model_fields)


def _table(title: str, said: str, fields: Mapping[str, FieldInfo]) -> str:
    """A heading, a sentence, and a table in which the options that are served come first."""
    by_state = sorted(fields.items(), key=lambda option: state_of(option[1]) != SERVED)
    rows = [row for name, field in by_state for row in _rows(name, field)]
    head = ["option", "type", "default", "meaning", "state"]
    lines = [_line(cells) for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join([f"## {title}", "", said, "", *lines])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(in_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _rows(name: str, field: FieldInfo) -> Iterator[list[str]]:
    """The row of an option, then those of its choices, then those of the options inside it."""
    yield [f"`{name}`", type_of(field), _default(field), field.description or "", state_of(field)]
    choice = choice_of(field)
    if choice is not None:
        yield from ([" ", f"`{one}`", " ", choice.summary(one), SERVED] for one in choice)
        yield from ([" ", names, " ", " ", f"not served yet: {advice}"] for advice, names in later_of(choice))
    if state_of(field) == SERVED:
        for inner in _sections_in(field.annotation):
            for option, part in inner.model_fields.items():
                yield from _rows(f"{name} › {option}", part)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def _default(field: FieldInfo) -> str:
    return {"": "", "required": "required"}.get(default_of(field), f"`{default_of(field)}`")


if __name__ == "__main__":
    main()
