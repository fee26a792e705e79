"""From the options about the adapter to a plan of it, and everything that speaks against one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from simpletuner.errors import Problem
from simpletuner.models.adapters import lycoris_settings
from simpletuner.models.adapters.dropout import Dropout
from simpletuner.models.adapters.formats.neutral import TRANSFORMER
from simpletuner.models.adapters.layers import Rule, Shape
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.lycoris import LycorisPlan
from simpletuner.models.adapters.lycoris_settings import LycorisSettings
from simpletuner.models.adapters.merging import BaseAdapter
from simpletuner.models.adapters.presets import CLASSES, PRESETS, SLIDER

if TYPE_CHECKING:
    from simpletuner.models.adapters.adapter import AdapterPlan
    from simpletuner.models.options import Adapter


def plan(options: Adapter, part: str = TRANSFORMER, more: tuple[str, ...] = ()) -> AdapterPlan:
    """What the adapter will look like.

    Args:
        options: About the adapter.
        part: What of the model it is put on, as files name it.
        more: Layers that it must have besides those that the options name.
    """
    made = _PLANS[options.lora_type](options)
    return replace(made, part=part, targets=(*made.targets, *more)) if isinstance(made, LoraPlan) else made


def base_adapters(options: Adapter) -> tuple[BaseAdapter, ...]:
    """What becomes part of the base."""
    strengths = options.base_adapters_strength or (1.0,) * len(options.base_adapters)
    return tuple(BaseAdapter(path, share) for path, share in zip(options.base_adapters, strengths, strict=True))


def _standard(options: Adapter) -> LoraPlan:
    return LoraPlan(
        targets=_targets(options),
        rank=options.lora_rank,
        alpha=options.lora_alpha,
        dropout=Dropout(
            options.lora_dropout, options.lora_dropout_position, options.rank_dropout, options.module_dropout
        ),
        init=options.lora_init_type,
        shape=_shape(options),
        use_dora=options.use_dora,
        use_rslora=options.use_rslora,
        ratio=options.loraplus_lr_ratio or 1.0,
        max_norm=options.lora_max_norm,
        start_file=options.init_lora,
        file_format=options.lora_format,
    )


def lycoris(options: Adapter) -> LycorisPlan:
    """What the adapter will look like where it is one of LyCORIS."""
    settings = LycorisSettings.read(lycoris_settings.load(options.lycoris_config))
    return LycorisPlan(settings, init_norm=options.init_lokr_norm, start_file=options.init_lora)


_PLANS: Mapping[str, Callable[[Adapter], AdapterPlan]] = {"standard": _standard, "lycoris": lycoris}


def _targets(options: Adapter) -> tuple[str, ...]:
    """The layers that the user named, else those of sliders, else those of the preset."""
    explicit = options.peft_lora_target_modules
    return explicit or tuple(SLIDER if options.slider_lora_target else PRESETS[options.flux_lora_target])


def _shape(options: Adapter) -> Shape:
    ranks = {name: options.__dict__[name] for name in CLASSES}
    return Shape(
        classes={name: rank for name, rank in ranks.items() if rank is not None},
        in_dims=options.in_dims,
        double_blocks="none" if options.train_blocks == "single" else options.train_double_block_indices,
        single_blocks="none" if options.train_blocks == "double" else options.train_single_block_indices,
        rank_pattern=options.rank_pattern,
        alpha_pattern=options.alpha_pattern,
        rules=tuple(Rule(one.pattern, one.rank, one.alpha, one.lr) for one in options.lora_layers),
    )


def conflicts(options: Adapter, precision: str) -> Iterator[Problem]:
    """What does not go together.

    Args:
        options: About the adapter.
        precision: The value of `base_model_precision`.
    """
    yield from _starts(options, precision)
    yield from _lengths(options)
    yield from _blocks(options)
    yield from _strengths(options)
    yield from _of_lycoris(options, precision) if options.lora_type == "lycoris" else _of_lora(options)


def without_adapter(options: Adapter) -> Iterator[Problem]:
    """What does not go together when there is no adapter, because the model itself is trained."""
    yield from _strengths(options)
    names = (name for name in type(options).model_fields if name not in _OF_BASE and _is_changed(options, name))
    for name in names:
        if options.__dict__[name] != lycoris_settings.DEFAULT_PATH:  # configs in use name it whatever they train
            yield Problem(name, "is about an adapter, and model_type full trains none; leave it out, or use lora")


def notices(options: Adapter, precision: str) -> Iterator[str]:
    """What has no effect as the options stand together.

    Args:
        options: About the adapter.
        precision: The value of `base_model_precision`.
    """
    yield from _unhelped(options)
    if options.lora_type == "standard":
        yield from _overruled(options)
        yield from _empty_rule(options)
        return
    for name in _IGNORED_BY_LYCORIS:
        if _is_changed(options, name):
            yield f"{name} has no effect: with lora_type lycoris, layers and sizes are in lycoris_config"
    if options.init_lokr_norm is not None and options.init_lora is not None:
        yield "init_lokr_norm has no effect: init_lora says where training starts"
    try:
        given = lycoris_settings.load(options.lycoris_config)
    except ValueError:  # which is told as a problem
        return
    if not list(lycoris_settings.problems(given)):
        said = lycoris_settings.remarks(given, is_packed=precision != "no_change")
        yield from (f"lycoris_config: {one}" for one in said)


def _unhelped(options: Adapter) -> Iterator[str]:
    """Options about a helping adapter that is not there."""
    names: tuple[str, ...] = ()
    why = "disable_assistant_lora is set"
    if options.assistant_lora_path is None:
        names, why = (*_OF_HELPER, "disable_assistant_lora"), "assistant_lora_path is not set"
    elif options.disable_assistant_lora:
        names = _OF_HELPER
    yield from (f"{name} has no effect: {why}" for name in names if _is_changed(options, name))


_OF_HELPER = ("assistant_lora_strength", "assistant_lora_inference_strength")


def _overruled(options: Adapter) -> Iterator[str]:
    """Ways to choose layers beside a more explicit one, in the order in which they hold."""
    ways = ("peft_lora_target_modules", "slider_lora_target", "flux_lora_target")
    first, *others = [name for name in ways if _is_changed(options, name)] or [""]
    yield from (f"{name} has no effect: {first} says which layers are trained" for name in others)


def _empty_rule(options: Adapter) -> Iterator[str]:
    """A last rule that says nothing; one before others keeps these from the layers that it matches."""
    last = options.lora_layers[-1] if options.lora_layers else None
    if last is not None and (last.rank, last.alpha, last.lr) == (None, None, None):
        yield f"lora_layers: the rule for {last.pattern} has no effect: it has no rank, alpha or lr"


def _starts(options: Adapter, precision: str) -> Iterator[Problem]:
    init = options.lora_init_type
    if init == "loftq" and precision != "no_change":
        yield Problem(
            "lora_init_type",
            f"loftq needs the weights as they are, and base_model_precision is {precision}; use pissa, or "
            f"base_model_precision no_change",
        )
    for name in ("init_lora", "use_dora", "lora_max_norm"):
        if init != "default" and _is_changed(options, name) and (name != "lora_max_norm" or init != "gaussian"):
            yield Problem("lora_init_type", f"{init} does not go together with {name}; use default")


def _lengths(options: Adapter) -> Iterator[Problem]:
    between = [name for name in ("rank_dropout", "module_dropout") if _is_changed(options, name)]
    between += ["lora_dropout_position rank"] if options.lora_dropout_position == "rank" else []
    for name in between if options.use_dora else ():
        yield Problem("use_dora", f"does not go together with {name}; use lora_dropout, or leave use_dora out")
    if options.use_dora and options.lora_max_norm is not None:
        yield Problem("use_dora", "does not go together with lora_max_norm; leave one of them out")
    if options.lora_dropout_position == "rank" and not options.lora_dropout:
        yield Problem("lora_dropout_position", "says where lora_dropout acts, which is 0; set it too, or leave both")


def _blocks(options: Adapter) -> Iterator[Problem]:
    for kind, other in (("double", "single"), ("single", "double")):
        option = f"train_{kind}_block_indices"
        if options.train_blocks == other and options.__dict__[option] != "all":
            yield Problem(option, f"names blocks, but train_blocks is {other}; set train_blocks to all")


def _strengths(options: Adapter) -> Iterator[Problem]:
    given, files = len(options.base_adapters_strength), len(options.base_adapters)
    if given and given != files:
        yield Problem("base_adapters_strength", f"has {given} numbers for {files} of base_adapters; give one for each")


def _of_lora(options: Adapter) -> Iterator[Problem]:
    for name in ("lycoris_config", "init_lokr_norm"):
        # Configs in use name the default file with every kind of adapter.
        if _is_changed(options, name) and options.__dict__[name] != lycoris_settings.DEFAULT_PATH:
            yield Problem(name, "is only read with lora_type lycoris; set that, or leave it out")


def _of_lycoris(options: Adapter, precision: str) -> Iterator[Problem]:
    for name in (*_LORA_ONLY, *CLASSES):
        if _is_changed(options, name):
            yield Problem(name, "is for lora_type standard; with lycoris, sizes and layers are in lycoris_config")
    if options.lora_format != "diffusers":
        yield Problem("lora_format", f"a LyCORIS adapter cannot be written as {options.lora_format}; use diffusers")
    try:
        given = lycoris_settings.load(options.lycoris_config)
    except ValueError as error:
        yield Problem("lycoris_config", str(error))
        return
    found = [Problem("lycoris_config", what) for what in lycoris_settings.problems(given)]
    yield from found
    if not found and options.init_lokr_norm is not None and (said := lycoris_settings.not_whole(given)):
        yield Problem("init_lokr_norm", said)
    if not found and LycorisSettings.read(given).keeps_lengths and precision != "no_change":
        yield Problem(
            "lycoris_config", f"dora_wd needs base_model_precision no_change, and it is {precision}; change one"
        )


def _is_changed(options: Adapter, name: str) -> bool:
    field = type(options).model_fields[name]
    return bool(options.__dict__[name] != field.get_default(call_default_factory=True))


_OF_BASE = frozenset(
    {
        *("base_adapters", "base_adapters_strength", "fuse_qkv_projections"),
        *("assistant_lora_path", "assistant_lora_strength", "assistant_lora_inference_strength"),
        "disable_assistant_lora",
    }
)
"""Options of the section that are about the model which is trained, or refused elsewhere."""
_IGNORED_BY_LYCORIS = ("lora_rank", "lora_alpha", "lora_dropout", "flux_lora_target")
_LORA_ONLY = (
    "lora_init_type",
    "use_dora",
    "use_rslora",
    "loraplus_lr_ratio",
    "lora_max_norm",
    "lora_dropout_position",
    "rank_dropout",
    "module_dropout",
    "rank_pattern",
    "alpha_pattern",
    "lora_layers",
    "in_dims",
    "train_blocks",
    "train_double_block_indices",
    "train_single_block_indices",
    "peft_lora_target_modules",
    "slider_lora_target",
)
