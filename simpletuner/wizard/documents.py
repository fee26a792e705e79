"""The three files of a config as plain values, and what they answer already."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simpletuner import files, legacy, selection
from simpletuner.errors import ConfigError, Problem
from simpletuner.wizard.answers import FILE_NAMES, OWN_PROMPT, Answers
from simpletuner.wizard.models import BASE, PARTS, TRANSFORMER

ASKED_PROMPTS = 3
"""How many prompts of the library the wizard asks about."""


@dataclass(frozen=True)
class Documents:
    """What is, or is to be, in the three files, and where they are."""

    config_path: Path
    data_path: Path
    library_path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    data: Sequence[Any] = ()
    library: Mapping[str, Any] = field(default_factory=dict)
    is_new: bool = True

    def contents(self) -> dict[Path, bytes]:
        """The bytes of each file; the config comes last, so that what it names is there when it appears."""
        return {
            self.data_path: as_json(self.data),
            self.library_path: as_json(self.library),
            self.config_path: as_json(self.config),
        }


def read(folder: Path, working: Path) -> Documents:
    """The files of a config, or empty ones where there are none.

    Args:
        folder: Where the config is, or is to be.
        working: Where relative paths in a config start.

    Raises:
        ConfigError: A file is broken, or the config is of a kind that is not edited.
    """
    path = folder / "config.json"
    data, library = folder / "multidatabackend.json", folder / "user_prompt_library.json"
    if not path.is_file():
        _only_json(folder)
        return Documents(path, data, library)
    config = _read(path, dict, "must be an object of options, {...}")
    options = options_of(config)
    old_data = named_file(options, "data_backend_config", path, working) or data
    old_library = named_file(options, "user_prompt_library", path, working) or library
    return Documents(
        path,
        data if _comes_along(old_data) else old_data,
        library if _comes_along(old_library) else old_library,
        config,
        _read(old_data, list, "must be a list of data sets, [...]"),
        _read(old_library, dict, "must be an object of names and prompts, {...}"),
        is_new=False,
    )


def answers_in(documents: Documents) -> Answers:
    """What the files answer already."""
    options = options_of(documents.config)
    entry = pictures_entry(documents.data) or {}
    strategy = str(entry.get("caption_strategy") or get(options, "caption_strategy") or (FILE_NAMES if entry else ""))
    strategy = strategy.replace("_", "")
    prompt = _first(entry.get("instance_prompt") or get(options, "instance_prompt"))
    prompts = [_prompt_of(entry) for entry in prompts_in(documents).values()]
    return Answers(
        pictures=str(entry.get("instance_data_dir", "")),
        captions=strategy,
        trigger=prompt if strategy == OWN_PROMPT else "",
        flavour=_text(options, "model_flavour"),
        family=_text(options, "model_family") or Answers.family,
        base=_text(options, BASE) or _text(options, TRANSFORMER),
        parts={name: text for name in PARTS if (text := _text(options, name))},
        steps=int(_number(options, "max_train_steps")),
        epochs=_number(options, "num_train_epochs"),
        prompts=tuple(prompts[:ASKED_PROMPTS]),
        name=_text(options, "tracker_run_name"),
        output=_text(options, "output_dir"),
        publish=_text(options, "push_to_hub").lower() in {"true", "1", "yes"},
        repository=_text(options, "hub_model_id"),
    )


def options_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options themselves, also of a config that wraps them as ``{_metadata, config}``."""
    inner = config.get("config")
    return inner if isinstance(inner, Mapping) else config


def prompts_in(documents: Documents) -> Mapping[str, Any]:
    """The prompt library; without one, the single prompt of the config by the name it is drawn under."""
    single = _text(options_of(documents.config), "validation_prompt")
    return documents.library or ({"validation": single} if single and single.lower() != "none" else {})


def pictures_entry(data: Sequence[Any]) -> Mapping[str, Any] | None:
    """The data set that the wizard asks about: the first folder of pictures to learn from."""
    return next((entry for entry in data if isinstance(entry, Mapping) and _is_picture_folder(entry)), None)


def named_file(options: Mapping[str, Any], name: str, config: Path, working: Path) -> Path | None:
    """The file that an option names, if there is one."""
    text = _text(options, name)
    places = (working / Path(text).expanduser(), config.parent / text, selection.packaged(text)) if text else ()
    return next((place for place in places if place is not None and place.is_file()), None)


def key_of(options: Mapping[str, Any], name: str) -> str | None:
    """How an option is spelled in a file: with dashes, hyphens or an older name."""
    return next((key for key in options if legacy.RENAMED.get(files.plain(key), files.plain(key)) == name), None)


def get(options: Mapping[str, Any], name: str) -> Any:
    """The value of an option however it is spelled, or None."""
    key = key_of(options, name)
    return None if key is None else options[key]


def put(options: MutableMapping[str, Any], name: str, value: Any) -> None:
    """Set an option in its own spelling and place, or add it in the spelling of the others."""
    others = [key.startswith("--") for key in options]
    options[key_of(options, name) or (f"--{name}" if others and all(others) else name)] = value


def drop(options: MutableMapping[str, Any], name: str) -> None:
    """Take an option out, if it is there."""
    key = key_of(options, name)
    if key is not None:
        del options[key]


def as_json(value: Any) -> bytes:
    """The bytes of a file that people read and edit."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _only_json(folder: Path) -> None:
    other = next((folder / name for name in selection.NAMES if (folder / name).is_file()), None)
    if other is not None:
        advice = (
            "is edited by hand: only config.json is written here; move it away to start anew, or name another folder"
        )
        raise ConfigError(str(other), [Problem("(whole file)", advice)])


def _comes_along(path: Path) -> bool:
    """Whether a file belongs to an example of the package, which is never changed."""
    return any(path.is_relative_to(root) for root in selection.example_folders())


def _read(path: Path, kind: type[Any], wanted: str) -> Any:
    if not path.is_file():
        return kind()
    value = files.read(path)
    if not isinstance(value, kind):
        raise ConfigError(str(path), [Problem("(whole file)", wanted)])
    return value


def _is_picture_folder(entry: Mapping[str, Any]) -> bool:
    def says(name: str, *words: str) -> bool:
        return str(entry.get(name, words[0])).strip().lower() in words

    is_used = says("disabled", "false") and says("disable", "false")
    learns = says("is_regularisation_data", "false") and says("is_regularization_data", "false")
    return says("type", "local", "") and says("dataset_type", "image") and is_used and learns


def _first(value: Any) -> str:
    chosen = value[0] if isinstance(value, (list, tuple)) and value else value
    return "" if chosen is None or isinstance(chosen, (list, tuple)) else str(chosen)


def _prompt_of(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return str(next((entry[key] for key in _PROMPT_KEYS if key in entry), ""))
    return str(entry)


def _text(options: Mapping[str, Any], name: str) -> str:
    value = get(options, name)
    return "" if value is None else str(value).strip()


def _number(options: Mapping[str, Any], name: str) -> float:
    try:
        return float(_text(options, name) or 0)
    except ValueError:  # the check at the end says what is wrong with it
        return 0


_PROMPT_KEYS = ("prompt", "caption", "tags")
"""Under which key an entry of a prompt library has its text."""
