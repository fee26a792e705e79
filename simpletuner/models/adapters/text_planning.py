"""From the options about training text encoders to plans of their adapters, and everything that speaks against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from simpletuner.errors import Problem
from simpletuner.models.adapters.formats.files import read_adapter
from simpletuner.models.adapters.formats.neutral import CLIP, T5
from simpletuner.models.adapters.joined import Companion, JoinedPlan
from simpletuner.models.adapters.layers import Shape
from simpletuner.models.adapters.lora import LoraPlan

if TYPE_CHECKING:
    from simpletuner.models.adapters.adapter import AdapterPlan
    from simpletuner.models.learned_text import TextPart
    from simpletuner.models.options import Adapter


def wanted(options: Adapter) -> tuple[str, ...]:
    """The text encoders that are trained, by what of the model they are; one whose learning rate is 0 is not."""
    asked = [CLIP] * options.train_text_encoder + [T5] * (options.train_text_encoder and options.train_t5xxl)
    return tuple(part for part in asked if rate(options, part) != 0)


def rate(options: Adapter, part: str) -> float | None:
    """The learning rate of a text encoder: the only one that is given, or its own; None for that of the run."""
    given = options.text_encoder_lr
    if not given:
        return None
    return given[-1] if part.startswith(T5) else given[0]


def joined(first: AdapterPlan, parts: Sequence[TextPart], options: Adapter) -> AdapterPlan:
    """The plan of an adapter with those of text encoders beside it."""
    if not parts:
        return first
    assert isinstance(first, LoraPlan)
    names = (first.part, *(part.name for part in parts))
    others = [Companion(part.module, _plan(first, part, names), rate(options, part.name)) for part in parts]
    return JoinedPlan(replace(first, parts=names), others)


def _plan(first: LoraPlan, part: TextPart, names: tuple[str, ...]) -> LoraPlan:
    """The same size and kind; what speaks about single layers speaks about the transformer's."""
    start = first.start_file
    known = start is not None and bool(read_adapter(start).of(part.name))
    return replace(
        first, targets=part.targets, shape=Shape(), part=part.name, parts=names, start_file=start if known else None
    )


def conflicts(
    options: Adapter, *, is_served: bool, has_controlnet: bool, precisions: Sequence[str] = ()
) -> Iterator[Problem]:
    """What does not go together.

    Args:
        options: About the adapter.
        is_served: Whether the family's text encoders can be trained.
        has_controlnet: Whether a ControlNet is trained.
        precisions: How CLIP and T5 are kept.
    """
    if not options.train_text_encoder:
        if options.train_t5xxl:
            alone = "text_encoder_lr [0, 1e-5] then leaves CLIP out"
            yield Problem("train_t5xxl", f"needs train_text_encoder; set it too, {alone}")
        return
    against = {
        "this family's text encoders cannot be trained; leave it out": not is_served,
        "a LyCORIS adapter is for the transformer alone; use lora_type standard, or leave it out": (
            options.lora_type == "lycoris"
        ),
        "a ControlNet is trained alone; leave one of the two out": has_controlnet,
        "text_encoder_lr is 0, which trains none; raise it, or leave train_text_encoder out": not wanted(options),
    }
    yield from (Problem("train_text_encoder", reason) for reason, holds in against.items() if holds)
    for number, (part, precision) in enumerate(zip((CLIP, T5), precisions, strict=False), start=1):
        if options.lora_init_type == "loftq" and part in wanted(options) and precision != "no_change":
            what = f"loftq needs the weights as they are, and text_encoder_{number}_precision is {precision}"
            yield Problem("lora_init_type", f"{what}; use pissa, or text_encoder_{number}_precision no_change")


def remarks(options: Adapter) -> Iterator[str]:
    """What has no effect, or not the one that might be expected."""
    if options.text_encoder_lr and not options.train_text_encoder:
        yield "text_encoder_lr has no effect without train_text_encoder"
    if T5 in wanted(options):
        yield "train_t5xxl: most programs, diffusers among them, leave the T5 part of an adapter file out"
