"""What would end a run after minutes of work, found before any of it: closed repositories, adapters of other models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from simpletuner import hub, plans
from simpletuner.config import RunConfig
from simpletuner.errors import ConfigError, ModelError, Problem
from simpletuner.models import attention, compiling, controlling, memory_plans, worn
from simpletuner.models.adapters import aiming, lycoris_start, planning
from simpletuner.models.adapters.formats.files import find, read_adapter, read_shapes
from simpletuner.models.adapters.formats.fitting import check_fit, shapes
from simpletuner.models.adapters.formats.neutral import TRANSFORMER
from simpletuner.models.adapters.from_file import FileStart
from simpletuner.models.adapters.lycoris_merging import is_lycoris, see_that_it_merges
from simpletuner.models.attention import ATTENTIONS
from simpletuner.models.sources import is_local, looks_like_path
from simpletuner.training import looks, previews, scores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from simpletuner.models.controlling import ControlNet
    from simpletuner.models.options import Adapter

    Shapes = Mapping[str, tuple[int, int]]


def check(config: RunConfig) -> None:
    """Look at what a config names.

    Raises:
        ConfigError: Something of it cannot be used.
    """
    closed = hub.closed(hub.findings(remote(config)), _ALWAYS_USED)
    if problems := [*closed, *_machine(config), *_moved(config), *_adapters(config)]:
        raise ConfigError("the config", problems)


_ALWAYS_USED = ("assistant_lora_path", "controlnet_model_name_or_path")
"""What no cache can stand for."""


def adapters(config: RunConfig) -> None:
    """Look at the files and layers that a config names about adapters, and load nothing where it names none.

    Raises:
        ConfigError: They do not fit the model, as far as it is on this machine.
    """
    options = config.adapter
    changed = {name for name in options.model_fields_set if options.__dict__[name] != _default(options, name)}
    if changed - _OF_EVERY_MODEL and (problems := list(_adapters(config))):
        raise ConfigError("the config", problems)


def _default(options: Adapter, name: str) -> object:
    return type(options).model_fields[name].get_default(call_default_factory=True)


_OF_EVERY_MODEL = frozenset(
    {
        *("lora_rank", "lora_alpha", "lora_dropout", "lora_dropout_position", "rank_dropout", "module_dropout"),
        *("lora_max_norm", "use_rslora", "loraplus_lr_ratio", "lora_format", "use_dora", "flux_lora_target"),
        *("disable_assistant_lora", "assistant_lora_strength", "assistant_lora_inference_strength"),
        *("fuse_qkv_projections", "train_text_encoder", "train_t5xxl", "text_encoder_lr"),
    }
)
"""Options that fit any model, or nearly: to look at the network costs seconds of waiting for libraries."""


def pictures(config: RunConfig) -> None:
    """See that everything is there that validation draws and judges with; what is on the Hub is downloaded.

    Raises:
        ModelError: Something is missing, or does not fit the model.
    """
    options = config.validation
    if options.validation_disable or options.validation_method == "external-script":
        return
    if options.evaluation_type == "clip":
        scores.is_there(options.pretrained_evaluation_model_name_or_path)
    if options.validation_preview:
        previews.is_there(options.validation_preview_model)
    adapters = [one for outfit in looks.outfits(options) for one in outfit.adapters]
    known = _known(config) if adapters else None
    for adapter in adapters:
        worn.layers_of(adapter, known)


def remarks(config: RunConfig) -> Iterator[str]:
    """What will fail without ending the run."""
    if config.publishing.push_to_hub and not hub.has_token():
        yield (
            "push_to_hub: there is no token for the Hub, so uploads will only wait in the outbox of the output folder; "
            "set HF_TOKEN to a token that may write, or run: hf auth login"
        )


def remote(config: RunConfig) -> dict[str, tuple[str, str | None]]:
    """What a run takes from the Hub: each repository once, with its revision, by the option that names it."""
    model, weights = config.model, config.model.weights()
    base = "pretrained_model_name_or_path" if model.pretrained_model_name_or_path else "model_flavour"
    places = {
        base: weights.base,
        "pretrained_transformer_model_name_or_path": weights.transformer,
        "pretrained_vae_model_name_or_path": weights.vae,
        "text_encoder_path": weights.clip,
        "pretrained_t5_model_name_or_path": weights.t5,
    }
    found: dict[str, tuple[str, str | None]] = {}
    for option, source in places.items():
        if source is not None and not is_local(source) and (source, weights.revision) not in found.values():
            found[option] = (source, weights.revision)
    other = model.controlnet_model_name_or_path
    if other is not None and not is_local(other) and (other, None) not in found.values():
        found["controlnet_model_name_or_path"] = (other, None)  # the revision is that of the model
    helper = plans.assistant(config)
    if helper is not None and not (is_local(helper.source) or looks_like_path(helper.source)):
        found["assistant_lora_path"] = (helper.source, None)
    return found


def _machine(config: RunConfig) -> Iterator[Problem]:
    """What the machine has not."""
    options = config.memory
    ways = (memory_plans.offload, memory_plans.offload_of_encoders, memory_plans.offload_of_codec)
    needs_card = any(plan.needs_card for plan in (way(options) for way in ways) if plan is not None)
    compilation = memory_plans.compilation(options)
    if any(plan.disk for way in ways if (plan := way(options)) is not None):
        yield from _disk(Path(options.group_offload_to_disk_path))
    if not needs_card and compilation is None and not ATTENTIONS[options.attention_mechanism].may_be_missing:
        return
    import torch

    has_card = torch.cuda.is_available()
    if said := attention.missing(options.attention_mechanism, torch.device("cuda" if has_card else "cpu")):
        yield Problem("attention_mechanism", said)
    if needs_card and not has_card:
        what = "copies weights while a card computes, and this machine has no card of NVIDIA or AMD; leave it out"
        yield Problem("group_offload_use_stream", what)
    if compilation is not None and (said := compiling.missing_tool(compilation.backend, has_card=has_card)):
        yield Problem("dynamo_backend", said)


def _moved(config: RunConfig) -> Iterator[Problem]:
    """Layers to be moved that the network does not have, as far as it is on this machine."""
    named = (config.memory.ramtorch_target_modules or ()) if config.memory.ramtorch else ()
    known = (_known(config) or ()) if named else ()
    for one in named if known else ():
        if not any(name.endswith(f".{one}") for name in known):
            yield Problem("ramtorch_target_modules", f"no layer of the network is called {one}; leave it out")


def _disk(folder: Path) -> Iterator[Problem]:
    """A folder that cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Problem("group_offload_to_disk_path", f"{folder} cannot be written to ({error.strerror}); choose another")


def _adapters(config: RunConfig) -> Iterator[Problem]:
    """Adapters that are of another model, as far as the model is on this machine."""
    helper = plans.assistant(config)
    files = [("base_adapters", one) for one in config.adapter.base_adapters]
    files += [("assistant_lora_path", helper.source)] if helper is not None and is_local(helper.source) else []
    outline = _outline(config) if files or config.model.model_type == "lora" else None
    for option, path in files:
        if said := _unfit(path, outline, is_helper=option == "assistant_lora_path"):
            yield Problem(option, said)
    if config.model.model_type == "lora":
        yield from _trained(config, outline)


def _trained(config: RunConfig, outline: nn.Module | None) -> Iterator[Problem]:
    """What is wrong with the adapter that is trained: the file it starts from, and the layers it is put on."""
    options, start = config.adapter, config.adapter.init_lora
    if start is not None and (said := _unfit(start, None)):
        yield Problem("init_lora", said)
        return
    if start is not None and (options.lora_type == "lycoris") != _is_lycoris(start):
        kind = {"lycoris": "is no LyCORIS adapter", "standard": "is a LyCORIS adapter"}[options.lora_type]
        yield Problem("init_lora", f"'{start}' {kind}, and lora_type is {options.lora_type}; change one of them")
        return
    beside = controlling.plan(config.model)
    network = outline if beside is None else _outline(config, beside)
    if network is None:
        return
    known, parts = shapes(network), {name: type(one).__name__ for name, one in network.named_modules()}
    aimed = list(aiming.problems(options, known, parts, controlling.targets(config.model)))
    yield from aimed
    if options.lora_type == "lycoris" and not aimed:
        yield from lycoris_start.problems(planning.lycoris(options), network)
    if start is not None and options.lora_type == "standard" and beside is None:
        try:
            FileStart.read(start, known, use_dora=options.use_dora)
        except ModelError as error:
            yield Problem("init_lora", str(error).removeprefix("init_lora: ").rstrip("."))


def _known(config: RunConfig) -> Shapes | None:
    """The shapes of the network's layers, where its config is on this machine."""
    outline = _outline(config)
    return shapes(outline) if outline is not None else None


def _outline(config: RunConfig, beside: ControlNet | None = None) -> nn.Module | None:
    """The network without weights, or the ControlNet beside it, where its config is on this machine."""
    return plans.family(config).outline(config.model.weights(), follows=config.model.control, beside=beside)


def _is_lycoris(path: str) -> bool:
    names, _ = read_shapes(find(Path(path).expanduser()))
    return is_lycoris(names)


def _unfit(path: str, outline: nn.Module | None, *, is_helper: bool = False) -> str | None:
    """What is wrong with an adapter file for the network of this outline."""
    try:
        names, _ = read_shapes(find(Path(path).expanduser()))
        if is_lycoris(names):
            if is_helper:
                return f"'{path}' is a LyCORIS adapter, which cannot help; use a LoRA"
            if outline is not None:
                see_that_it_merges(outline, names, path)
            return None
        layers = read_adapter(path).of(TRANSFORMER)
        if outline is not None:
            check_fit(layers, shapes(outline), path)
            return None if layers else f"'{path}' has nothing for the {TRANSFORMER}; leave it out"
    except ModelError as error:
        return str(error).rstrip(".")
    return None
