"""What is wrong with the options of validation, as a look at the files that they name tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from simpletuner.errors import Problem
from simpletuner.models.sources import is_local, looks_like_path
from simpletuner.training import prompts, wishes
from simpletuner.training.looks import outfits
from simpletuner.training.options import Validation
from simpletuner.training.scripts import FACTS, wrong_with


def wrong_pictures(
    options: Validation, *, is_shown_pictures: bool, fills: bool = False, has_adapter: bool = True
) -> Iterator[Problem]:
    """Pictures and adapters for validation that are not there, and options that do not go together.

    Args:
        options: Those of validation.
        is_shown_pictures: Whether the model looks at pictures besides the prompt.
        fills: Whether it fills the holes of pictures, and so needs a mask for each of them.
        has_adapter: Whether an adapter is trained, and not the weights themselves.
    """
    if options.validation_disable:
        return
    yield from _missing(options, fills=fills, has_adapter=has_adapter)
    yield from _script(options)
    if options.validation_adapter_path is not None and options.validation_adapter_config is not None:
        yield Problem("validation_adapter_config", "names adapters, and validation_adapter_path one; leave one out")
    if options.validation_input is not None and options.validation_using_datasets:
        yield Problem("validation_input", "names pictures to change, and validation_using_datasets too; leave one out")
    if options.validation_using_datasets and (is_shown_pictures or fills):
        what = "is not for a model that looks at pictures: it is shown those of its data anyway; leave it out"
        yield Problem("validation_using_datasets", what)
    skip = (options.validation_guidance_skip_layers_start, options.validation_guidance_skip_layers_stop)
    if options.validation_guidance_skip_layers and skip[0] >= skip[1]:
        yield Problem("validation_guidance_skip_layers_start", f"is {skip[0]:g}; set it below the stop, {skip[1]:g}")


def skipped(options: Validation, counts: Callable[[], Sequence[int]]) -> Iterator[Problem]:
    """Blocks that the model does not have; `counts` says how many of each kind there are, nothing if not known."""
    wanted = options.validation_guidance_skip_layers
    if not wanted or options.validation_disable:
        return
    blocks = sum(counts())
    if blocks and max(wanted) >= blocks:
        what = f"names block {max(wanted)}, and the model has {blocks}, counted from 0; lower it"
        yield Problem("validation_guidance_skip_layers", what)


def idle_pictures(options: Validation) -> Iterator[str]:
    """Options that were changed and do nothing, each with the reason."""
    for names, is_used, reason in () if options.validation_disable else _IDLE:
        for name in names if not is_used(options) else ():
            if options.__dict__[name] != type(options).model_fields[name].default:
                yield f"{name} has no effect: {reason}"


def unread(options: Validation) -> Iterator[str]:
    """What stands in a file of prompts for other models, and a file without prompts."""
    library = options.user_prompt_library
    if options.validation_disable or library is None or not Path(library).is_file():
        return
    found = wishes.read(Path(library))
    if not found:
        yield "user_prompt_library has no effect: there is no prompt in it"
    keys = {key for wish in found.values() for key in wish.unread}
    yield from (f"user_prompt_library: {key} has no effect: no model here reads it" for key in sorted(keys))


def _missing(options: Validation, *, fills: bool, has_adapter: bool) -> Iterator[Problem]:
    library = options.user_prompt_library
    named = "validation_input" if options.validation_input is not None else "user_prompt_library"
    if named == "validation_input" or (library is not None and Path(library).is_file()):
        try:
            shots = prompts.shots(options, 0)
            if fills and any(shot.start for shot in shots):
                yield Problem(named, "names a picture, and a model that fills holes needs a mask for it; leave it out")
            if not has_adapter and (other := next((one for one in shots if one.adapter_strength != 1), None)):
                yield Problem(named, f"has adapter_strength for '{other.name}', and model_type full {_NO_ADAPTER}")
        except ValueError as error:
            yield Problem(named, str(error))
    several = options.validation_adapter_config is not None
    try:
        outfits(options)
    except ValueError as error:
        yield Problem("validation_adapter_config" if several else "validation_adapter_path", str(error))
    for option in _models(options):
        source = options.__dict__[option]
        if looks_like_path(source) and not is_local(source):
            yield Problem(option, f"there is no folder '{source}'; give a folder, or an id on the Hub")


def _script(options: Validation) -> Iterator[Problem]:
    command, is_asked_for = options.validation_external_script, options.validation_method == "external-script"
    if is_asked_for and command is None:
        yield Problem("validation_external_script", "is missing, and validation_method is external-script; give it")
    if command is not None and not is_asked_for:
        yield Problem("validation_external_script", "is only run with validation_method external-script; set that")
    if command is not None and is_asked_for:
        known = (*FACTS, *type(options).model_fields)
        yield from (Problem("validation_external_script", said) for said in wrong_with(command, known))


def _models(options: Validation) -> Iterator[str]:
    if options.evaluation_type == "clip":
        yield "pretrained_evaluation_model_name_or_path"
    if options.validation_preview:
        yield "validation_preview_model"


_NO_ADAPTER = "trains no adapter, which could act more or less; leave it out, or use model_type lora"

_IDLE: tuple[tuple[tuple[str, ...], Callable[[Validation], bool], str], ...] = (
    (
        tuple(f"validation_guidance_skip_{name}" for name in ("layers_start", "layers_stop", "scale")),
        lambda options: bool(options.validation_guidance_skip_layers),
        "it acts with validation_guidance_skip_layers",
    ),
    (
        ("validation_image_quality",),
        lambda options: options.validation_image_format != "png",
        "validation_image_format is png, which loses nothing",
    ),
    (
        ("validation_external_background",),
        lambda options: options.validation_method == "external-script",
        "it acts with validation_method external-script",
    ),
    (
        ("validation_preview_steps", "validation_preview_model"),
        lambda options: options.validation_preview,
        "it acts with validation_preview",
    ),
    (
        tuple(f"validation_adapter_{name}" for name in ("name", "strength", "mode")),
        lambda options: options.validation_adapter_path is not None,
        "it acts with validation_adapter_path",
    ),
    (
        ("pretrained_evaluation_model_name_or_path",),
        lambda options: options.evaluation_type == "clip",
        "it acts with evaluation_type clip",
    ),
)
"""Options, whether they do anything, and what to say when they do not."""
