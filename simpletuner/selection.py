"""Which config a run uses: ``--config``, ``--env``, ``--example``, the environment, or ``config/config.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from simpletuner.errors import ConfigError, Problem
from simpletuner.schema import did_you_mean

NAMES = ("config.json", "config.toml", "config.env")
_BACKENDS = {"json": "config.json", "toml": "config.toml", "env": "config.env"}
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Selection:
    """What the user said about where the config is; at most one of the three."""

    config: str | None = None
    env: str | None = None
    example: str | None = None


def find(selection: Selection, environment: Mapping[str, str], folder: Path) -> Path:
    """The config file to read.

    Args:
        selection: What the command line says.
        environment: The environment variables of the process.
        folder: Where relative paths start.

    Raises:
        ConfigError: There is no such file; the message lists where it was looked for.
    """
    given = [name for name, value in vars(selection).items() if value]
    if len(given) > 1:
        raise ConfigError("the command line", [Problem(f"--{given[0]}", f"cannot be used together with --{given[1]}")])
    if selection.example:
        return _first(_example_places(selection.example), f"--example {selection.example}", _known_examples())
    named = selection.config or ("" if selection.env else environment.get("CONFIG_PATH"))
    if named:
        return _first(list(_file_places(folder / Path(named).expanduser())), f"--config {named}")
    name = selection.env or environment_name(environment)
    if name.startswith("examples/"):
        return find(Selection(example=name.removeprefix("examples/")), environment, folder)
    return _first(list(_environment_places(name, environment, folder)), f"--env {name}" if name else "config")


def environment_name(environment: Mapping[str, str]) -> str:
    """The name of the chosen environment; empty stands for ``config/`` itself."""
    keys = ("SIMPLETUNER_ENVIRONMENT", "SIMPLETUNER_ENV", "ENV")
    name = next((environment[key] for key in keys if environment.get(key)), "")
    return "" if name == "default" else name


def example_folders() -> list[Path]:
    """Where examples lie: in the checkout, or inside the installed package."""
    return [_PACKAGE.parent / "config" / "examples", _PACKAGE / "examples"]


def packaged(path: str) -> Path | None:
    """A path below ``config/examples/``, found in the checkout or the installed package."""
    inside = path.removeprefix("./").removeprefix("config/examples/")
    if inside == path.removeprefix("./"):
        return None
    return next((root / inside for root in example_folders() if (root / inside).exists()), None)


def _example_places(name: str) -> list[Path]:
    return [root / name / file for root in example_folders() for file in NAMES]


def _known_examples() -> list[str]:
    return sorted({path.parent.name for root in example_folders() for path in root.glob("*/config.*")})


def _file_places(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (path / name for name in NAMES)
    else:
        yield path
        yield path.with_name(f"{path.name}.json")


def _environment_places(name: str, environment: Mapping[str, str], folder: Path) -> Iterator[Path]:
    backends = ("SIMPLETUNER_CONFIG_BACKEND", "CONFIG_BACKEND", "CONFIG_TYPE")
    backend = next((environment[key] for key in backends if environment.get(key)), "")
    if backend and backend not in _BACKENDS:
        told = f"'{backend}' is no kind of config; the kinds are {', '.join(_BACKENDS)}"
        raise ConfigError("the environment", [Problem("SIMPLETUNER_CONFIG_BACKEND", told)])
    files = [_BACKENDS[backend]] if backend else list(NAMES)
    roots = [folder / name, folder / "config" / name] if name else [folder / "config", folder]
    yield from (root / file for root in roots for file in files)


def _first(places: list[Path], where: str, known: list[str] | None = None) -> Path:
    found = next((path for path in places if path.is_file()), None)
    if found is not None:
        return found
    if known:
        name = where.split()[-1]
        raise ConfigError(
            "the command line",
            [Problem(where, f"there is no such example; {did_you_mean(name, known)}there are: {', '.join(known)}")],
        )
    looked = ", ".join(str(path) for path in places)
    advice = "make one with `simpletuner configure`, or try `simpletuner train --example demo`"
    raise ConfigError("the command line", [Problem(where, f"no config file was found; {advice}. Looked for: {looked}")])
