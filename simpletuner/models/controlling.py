"""What the options about following pictures mean: which ControlNet is trained, and what does not go with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from simpletuner.errors import ModelError, Problem
from simpletuner.models.adapters.starts import FROM_NOTHING
from simpletuner.models.sources import is_file, is_folder, local_config, part_folder
from simpletuner.models.weight_files import folder_contents
from simpletuner.schema import Section

if TYPE_CHECKING:
    from simpletuner.models.options import Adapter, Model

DOUBLE_BLOCKS, SINGLE_BLOCKS = 4, 10
"""How many blocks a new ControlNet has unless told otherwise, as in diffusers and SimpleTuner."""

KIND = "controlnet"
"""The value of `conditioning_type` for pictures that a ControlNet follows."""

NETWORK = "FluxControlNetModel"
"""What diffusers calls a ControlNet that can be trained."""

OVERLAY = "overlay"
"""What becomes of it where the picture is seen as further channels of the image; data files do not name it."""

PRESET = "controlnet"
"""The value of `flux_lora_target` for the layers that only a ControlNet has."""

PRESETS = {PRESET: "all", "all+ffs+embedder+controlnet": "all+ffs+embedder"}
"""All values of `flux_lora_target` with these layers, and what is next to them without a ControlNet."""


class ControlNetShape(Section):
    """The size of a new ControlNet."""

    num_layers: int | None = Field(default=None, ge=1)
    """How many double blocks it has: the first ones of the transformer; 4 unless given."""
    num_single_layers: int | None = Field(default=None, ge=0)
    """How many single blocks it has: the first ones of the transformer; 10 unless given."""


def shape_of(value: Any) -> Any:
    """Accept an object, JSON text of one, or the path of a JSON file."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        return json.loads(text if text.startswith("{") else Path(text).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"there is no file '{text}'; give the path of a JSON file, or the object itself") from error
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error


@dataclass(frozen=True)
class ControlNet:
    """Which ControlNet is trained."""

    source: str | None = None
    """The one to go on from; a new one begins as the first blocks of the transformer."""
    double_blocks: int | None = None
    single_blocks: int | None = None


def plan(options: Model) -> ControlNet | None:
    """The ControlNet that is trained, if one is."""
    if not options.controlnet:
        return None
    shape = options.controlnet_custom_config or ControlNetShape()
    return ControlNet(options.controlnet_model_name_or_path, shape.num_layers, shape.num_single_layers)


def targets(options: Model) -> tuple[str, ...]:
    """The layers that an adapter must have besides those that the user chose: the one that takes the picture in."""
    return ("x_embedder",) if options.control else ()


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that training a ControlNet needs unless others are given, by their names."""
    is_on = str(given.get("controlnet", "")).strip().lower() in {"true", "1", "yes", "on"}
    is_whole = str(given.get("model_type", "")).strip() == "full"
    return {"flux_lora_target": PRESET} if is_on and not is_whole else {}


def conflicts(model: Model, adapter: Adapter, *, takes_controlnet: bool, masks_prompt: bool) -> Iterator[Problem]:
    """What does not go together.

    Args:
        model: Options about the model.
        adapter: Options about the adapter.
        takes_controlnet: Whether the model can have one.
        masks_prompt: Whether the padding of prompts is hidden.
    """
    if model.control:
        yield from _of_channels(model, adapter, is_served=takes_controlnet)
    if not model.controlnet:
        yield from _left_over(model, adapter)
        return
    if not takes_controlnet:
        yield Problem("controlnet", f"there is no ControlNet for {_named(model)}; leave it out")
    if masks_prompt:
        yield Problem("controlnet", "a ControlNet sees the padding of prompts, which this model must not; leave it out")
    if model.controlnet_model_name_or_path is not None and model.controlnet_custom_config is not None:
        what = "shapes a new ControlNet, and controlnet_model_name_or_path names one; leave one of the two out"
        yield Problem("controlnet_custom_config", what)
    if model.controlnet_model_name_or_path is not None and (said := _wrong_with(model.controlnet_model_name_or_path)):
        yield Problem("controlnet_model_name_or_path", said)
    if model.model_type == "lora":
        yield from _of_adapter(adapter, is_new=model.controlnet_model_name_or_path is None)


def _named(model: Model) -> str:
    return f"model_flavour '{model.model_flavour}'" if model.model_flavour else f"model_family {model.model_family}"


def _wrong_with(source: str) -> str | None:
    """What is wrong with a ControlNet on this machine that is there, told from the headers of its files."""
    if is_file(source):
        return f"'{source}' is a single file; give the folder of a ControlNet in diffusers layout, or an id on the Hub"
    if not is_folder(source):
        return None
    try:
        folder_contents(part_folder(source, KIND))
    except ModelError as error:
        return str(error).rstrip(".")
    found = local_config(source, KIND, None).get("_class_name", NETWORK)
    return None if found == NETWORK else f"'{source}' holds a {found}, and a {NETWORK} is needed; use another one"


def _of_channels(model: Model, adapter: Adapter, *, is_served: bool) -> Iterator[Problem]:
    """What does not go with a picture as further channels of the image."""
    if model.controlnet:
        yield Problem(
            "control", "trains the model itself, and controlnet a network beside it; leave one of the two out"
        )
    elif not is_served:
        yield Problem("control", f"{_named(model)} cannot be given a picture to follow; leave it out")
    if model.model_type == "lora" and adapter.lora_type != "standard":
        what = f"{adapter.lora_type} leaves out the layer that takes the picture in; use standard"
        yield Problem("lora_type", what)


def _left_over(model: Model, adapter: Adapter) -> Iterator[Problem]:
    for option in ("controlnet_model_name_or_path", "controlnet_custom_config"):
        if model.__dict__[option] is not None:
            yield Problem(option, "is only read with controlnet: true; set that, or leave it out")
    explicit = adapter.peft_lora_target_modules is not None or adapter.slider_lora_target
    if adapter.flux_lora_target in PRESETS and adapter.lora_type == "standard" and not explicit:
        chosen = adapter.flux_lora_target
        yield Problem("flux_lora_target", f"'{chosen}' is for controlnet: true; set that, or use {PRESETS[chosen]}")


def _of_adapter(adapter: Adapter, *, is_new: bool) -> Iterator[Problem]:
    if adapter.lora_type != "standard":
        yield Problem("lora_type", f"a ControlNet cannot be trained with {adapter.lora_type}; use standard")
    if adapter.lora_format != "diffusers":
        what = f"'{adapter.lora_format}' has no names for the layers of a ControlNet; use diffusers"
        yield Problem("lora_format", what)
    if not is_new:
        return
    # The layers through which a new ControlNet speaks are zero: nothing else in it learns while they are.
    explicit = adapter.peft_lora_target_modules
    if explicit is not None and not any(PRESET in name for name in explicit):
        yield Problem("peft_lora_target_modules", f"{_SILENT}; name controlnet_blocks.0 and so on too")
    if explicit is None and (adapter.slider_lora_target or adapter.flux_lora_target not in PRESETS):
        where = "slider_lora_target" if adapter.slider_lora_target else "flux_lora_target"
        yield Problem(where, f"{_SILENT}; use flux_lora_target controlnet, or name one to go on from")
    if adapter.use_dora:
        yield Problem(
            "use_dora", "a new ControlNet begins with weights of length 0, which DoRA divides by; leave it out"
        )
    if adapter.lora_init_type not in FROM_NOTHING:
        what = f"{adapter.lora_init_type} takes its start from weights that are zero in a new ControlNet; use default"
        yield Problem("lora_init_type", what)


_SILENT = "a new ControlNet says nothing, and learns nothing, without its own layers"
