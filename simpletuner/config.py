"""From files, environment and command line to one frozen, complete and valid config, or to every problem at once.

Keys are flat in the file and grouped inside: each option lives in the section it steers, and `lift` sorts the keys of
a file into the sections that own them. Later layers win: defaults, file, environment, command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ValidationError

from simpletuner import files, legacy, mentioned, resolved, rules, selection
from simpletuner.complaints import problems
from simpletuner.data.checks import check_entries
from simpletuner.data.entries import missing_folders
from simpletuner.data.options import DataDefaults
from simpletuner.data.previews import wrong_tables
from simpletuner.data.remarks import remarks as remarks_on_data
from simpletuner.data.sources import SOURCES, DataEntry
from simpletuner.demo import MODEL
from simpletuner.errors import ConfigError, Problem
from simpletuner.models.families import defaults
from simpletuner.models.options import Adapter, Memory, Model, Precision, Routing
from simpletuner.remarks import remarks
from simpletuner.schema import Section, choice_of, did_you_mean, refusals, without_effect
from simpletuner.selection import Selection
from simpletuner.training.options import (
    Checkpoints,
    Distributed,
    Duration,
    Ema,
    Objective,
    Optimization,
    Publishing,
    Run,
    Tracking,
    Validation,
)

ENVIRONMENT_PREFIX = "SIMPLETUNER_"
_PAGE = "documentation/OPTIONS.md"

DEMO_VARIABLES = {"SIMPLETUNER_DEMO_MODEL": str(MODEL)}
"""The embedded model can be named in any config as {env:SIMPLETUNER_DEMO_MODEL}."""


class RunConfig(Section):
    """Everything one training run needs to know."""

    model: Model
    precision: Precision
    adapter: Adapter
    memory: Memory
    routing: Routing
    run: Run
    duration: Duration
    optimization: Optimization
    objective: Objective
    ema: Ema
    checkpoints: Checkpoints
    validation: Validation
    publishing: Publishing
    tracking: Tracking
    distributed: Distributed
    data_defaults: DataDefaults
    data: tuple[Annotated[DataEntry, SOURCES], ...]
    """The data sets to train on, and where caches go."""

    def flat(self) -> dict[str, Any]:
        """Every option by the key it has in a file; secrets are left out."""
        merged: dict[str, Any] = {}
        for name in SECTIONS:
            merged |= self.__dict__[name].model_dump(mode="json")
        return merged

    def dump(self, *, public: bool = False) -> str:
        """The resolved config with its data sets as JSON; a public one names no folder of this machine."""
        data = [entry.model_dump(mode="json", exclude_none=True) for entry in self.data]
        whole = resolved.text({**self.flat(), "data_backends": data})
        return resolved.public(whole) if public else whole


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in RunConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
OWNER: dict[str, str] = {option: name for name, section in SECTIONS.items() for option in section.model_fields}


@dataclass(frozen=True)
class Reading:
    """A config that is complete and typed, and what there is to say about it."""

    config: RunConfig
    path: Path
    notices: tuple[str, ...]
    problems: tuple[Problem, ...]
    """What it asks for that is not served yet, and what does not go together."""


def load(
    chosen: Selection, words: Sequence[str] = (), *, environment: Mapping[str, str], folder: Path | None = None
) -> Reading:
    """Find, read and check a config.

    Args:
        chosen: Which config, as the command line says.
        words: Options from the command line, such as ``lora_rank=8`` or ``--lora_rank 8``.
        environment: The environment variables of the process.
        folder: Where relative paths start; the working directory by default.

    Raises:
        ConfigError: It cannot be used; the error carries every problem.
    """
    folder = folder or Path.cwd()
    path = selection.find(chosen, environment, folder)
    reading = read(path, words, environment=environment, folder=folder, look_for_images=True)
    if reading.problems:
        raise ConfigError(str(path), reading.problems)
    return reading


def read(
    path: Path,
    words: Sequence[str] = (),
    *,
    environment: Mapping[str, str],
    folder: Path,
    look_for_images: bool = False,
) -> Reading:
    """Read one config file and its data file, with the layers above them, into a typed config.

    With `look_for_images`, folders of images that do not exist and tables without their columns are problems too.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type, or a file is missing or broken.
    """
    notices: list[str] = []
    flat, found = _layers(path, words, environment, notices)
    found += mentioned.prompt_library(flat, path, folder)
    mentioned.lycoris_file(flat, path, folder)
    found += mentioned.webhook_file(flat, path, environment, folder)
    entries, wrong = mentioned.data_file(flat, path, environment, folder)
    nested, unknown = lift(flat, entries)
    config, mistyped = _validated(nested)
    found += [*unknown, *mistyped, *wrong]
    unserved = [Problem(*one) for name in SECTIONS for one in refusals(config.__dict__[name])]
    together = [*unserved, *rules.check(config)]
    if not any(OWNER.get(problem.where) == "data_defaults" for problem in mistyped):
        together += _data_rules(entries, wrong, config.data_defaults)
    if look_for_images:
        together += [*missing_folders(entries), *wrong_tables(entries, config.data_defaults)]
    if found:
        raise ConfigError(str(path), _unique([*found, *together]))
    for name in SECTIONS:
        notices += [f"{option} has no effect: {why}" for option, why in without_effect(config.__dict__[name])]
    notices += [*remarks_on_data(entries, config.data_defaults), *remarks(config)]
    return Reading(config, path, tuple(notices), tuple(_unique(together)))


def lift(flat: Mapping[str, Any], data: Sequence[DataEntry]) -> tuple[dict[str, Any], list[Problem]]:
    """Sort the flat keys into the sections that own them; what nobody owns is a problem."""
    nested: dict[str, Any] = {name: {} for name in SECTIONS}
    unknown = []
    for key, value in flat.items():
        if key in OWNER:
            nested[OWNER[key]][key] = value
        else:
            theirs = legacy.COUNTERPARTS.get(key)
            hint = f"what sd-scripts calls so is {theirs}; " if theirs else did_you_mean(key, OWNER)
            unknown.append(Problem(key, f"there is no option of this name; {hint}see {_PAGE}"))
    nested["data"] = tuple(data)
    return nested, unknown


def _validated(nested: Mapping[str, Any]) -> tuple[RunConfig, list[Problem]]:
    """The config, and what is wrong with it; wrong options are left out, so that the rest is looked at too."""
    found: list[Problem] = []
    wrong: set[str] = set()
    while True:
        try:
            return RunConfig.model_validate(nested), found
        except ValidationError as error:
            said = problems(error, OWNER, _place, page=_PAGE)
            found += [problem for problem in said if not wrong & set(problem.where.split(", "))]
            wrong |= {str(part) for one in error.errors() for part in one["loc"][1:2]}
            nested = _without_the_wrong(nested, error)


def _without_the_wrong(nested: Mapping[str, Any], error: ValidationError) -> dict[str, Any]:
    better = {name: dict(value) if name in SECTIONS else value for name, value in nested.items()}
    for one in error.errors():
        section, *option = one["loc"]
        options = option[:1] or one["ctx"]["options"].split(", ")
        for name in options:
            better[str(section)].pop(name, None)
        if one["type"] == "missing" and len(option) == 1:
            better[str(section)][options[0]] = "?"  # what is required is a text or a path, and any will do from here on
    return better


def _layers(
    path: Path, words: Sequence[str], environment: Mapping[str, str], notices: list[str]
) -> tuple[dict[str, Any], list[Problem]]:
    found: list[Problem] = []
    missing: list[str] = []
    content = _from_variables(path, notices) if path.suffix == ".env" else files.read(path)
    layers: list[Mapping[str, Any]] = [
        _beside(path, notices),
        _plain_keys(_unwrapped(content, path), found),
        _from_environment(environment, notices),
        _plain_keys(files.arguments(list(words), OWNER), found),
    ]
    flat: dict[str, Any] = {}
    for layer in layers:
        modern, said = legacy.modernise(layer)
        flat |= {key: value for key, value in modern.items() if value is not None}
        notices += said
    filled = _named(files.filled(flat, {**DEMO_VARIABLES, **environment}, missing))
    found += [mentioned.not_set(name) for name in dict.fromkeys(missing)]
    return {**defaults(filled), **filled}, found


def _named(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The options with our names for what they choose, as far as they are known."""
    choices = {key: choice_of(SECTIONS[OWNER[key]].model_fields[key]) for key in flat if key in OWNER}
    return {key: (choice.ours(value) if (choice := choices.get(key)) else None) or value for key, value in flat.items()}


def _unwrapped(raw: Any, path: Path) -> Mapping[str, Any]:
    if isinstance(raw, Mapping) and isinstance(raw.get("config"), Mapping):
        raw = raw["config"]
    if not isinstance(raw, Mapping):
        raise ConfigError(str(path), [Problem("(whole file)", "must be an object of options, {...}")])
    return raw


def _plain_keys(raw: Mapping[str, Any], found: list[Problem]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, value in raw.items():
        name = files.plain(key)
        if name.startswith(("$", "_")) or (isinstance(key, str) and key.startswith("__")):
            continue
        if name in named and named[name] != value:
            found.append(Problem(name, f"is given twice, as {named[name]!r} and {value!r}; keep one"))
        named[name] = value
    return named


def _beside(path: Path, notices: list[str]) -> dict[str, Any]:
    """Options from a ``config.env`` next to a JSON or TOML file."""
    beside = path.with_name("config.env")
    if path.suffix == ".env" or not beside.is_file():
        return {}
    return _plain_keys(_from_variables(beside, notices), [])


def _from_variables(path: Path, notices: list[str]) -> dict[str, Any]:
    """The options that the variables of a ``config.env`` stand for."""
    given = files.read_variables(path)
    foreign = [name for name in given if name not in legacy.ENVIRONMENT_NAMES and name != "TRAINER_EXTRA_ARGS"]
    if foreign:
        stand = "stands for no option; export it" if len(foreign) == 1 else "stand for no options; export them"
        notices.append(f"{', '.join(foreign)} in {path.name} {stand} in your shell instead")
    return files.options_of(given)


def _from_environment(environment: Mapping[str, str], notices: list[str]) -> dict[str, Any]:
    found = {}
    for name, option in legacy.LAUNCHER_NAMES.items():
        if environment.get(name):
            found[option] = environment[name]
            notices.append(f"{option} comes from the environment variable {name}")
    for name, value in environment.items():
        option = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _SELECTORS or not value:
            continue
        if option in OWNER or option in legacy.RENAMED or option in legacy.INVERTED:
            found[option] = value
            notices.append(f"{option} comes from the environment variable {name}")
        else:
            notices.append(
                f"the environment variable {name} names no option; {did_you_mean(option, OWNER)}it is ignored"
            )
    return found


_SELECTORS = frozenset({*DEMO_VARIABLES, "SIMPLETUNER_ENVIRONMENT", "SIMPLETUNER_ENV", "SIMPLETUNER_CONFIG_BACKEND"})


def _data_rules(entries: Sequence[DataEntry], wrong: Sequence[Problem], defaults: DataDefaults) -> list[Problem]:
    return check_entries(entries, defaults, complete=not wrong) if entries else []


def _place(place: tuple[int | str, ...]) -> str:
    """The place of a problem as the user wrote it: the flat key, without the section it is sorted into."""
    inner = place[1:] if place[0] in SECTIONS else place
    return ".".join(str(part) for part in inner) or str(place[0])


def _unique(found: Sequence[Problem]) -> list[Problem]:
    """Each problem once, without those that only follow from a variable that is not set."""
    return [problem for problem in dict.fromkeys(found) if "{env:" not in problem.what]
