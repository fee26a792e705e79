"""How the trained weights are updated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from simpletuner.schema import NoEffect, NotYet, Section, belongs_to, conflict, words
from simpletuner.training.optimizers import OPTIMIZERS
from simpletuner.training.schedules import LR_SCHEDULES

CLIP_METHODS = words(
    "gradient clipping",
    {
        "norm": "Shortens the gradient as a whole to max_grad_norm and keeps its direction.",
        "value": "Limits each number of the gradient to max_grad_norm by itself.",
    },
)


def _settings(value: Any) -> Any:
    """Accept an object, JSON text of one, or ``key=value,key=value``."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is not JSON: {error}") from error
    return dict(_pair(part) for part in value.split(",") if part.strip())


def _pair(text: str) -> tuple[str, Any]:
    name, assigned, value = text.partition("=")
    if not assigned:
        raise ValueError(f"'{text.strip()}' is not of the form name=value")
    try:
        return name.strip(), json.loads(value.strip().lower())
    except json.JSONDecodeError:
        return name.strip(), value.strip()


class Optimization(Section):
    """How the trained weights are updated."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """How far each step goes; the peak, reached after the warm-up."""
    lr_scheduler: Annotated[str, LR_SCHEDULES] = "constant_with_warmup"
    """How the learning rate moves over the run."""
    lr_warmup_steps: int = Field(default=0, ge=0)
    """The steps over which the learning rate rises from zero to its peak."""
    lr_num_cycles: Annotated[int, NoEffect("no served schedule has cycles")] = 1
    """How often a schedule with cycles starts again."""
    lr_power: float = Field(default=0.8, gt=0)
    """How the polynomial schedule bends: 1 is a straight line."""
    lr_end: float = Field(default=4e-7, ge=0)
    """Where cosine and polynomial schedules end."""
    lr_scale: bool = False
    """Multiplies the learning rate by the number of images in a step."""
    lr_scale_sqrt: bool = False
    """With lr_scale, multiplies by the square root of that number."""
    optimizer: Annotated[str, OPTIMIZERS] = "adamw_bf16"
    """Which optimizer updates the trained weights."""
    optimizer_config: Annotated[Mapping[str, Any] | None, BeforeValidator(_settings)] = None
    """Settings of the optimizer: an object, or text such as weight_decay=0.01,eps=1e-8."""
    optimizer_beta1: float | None = Field(default=None, ge=0, lt=1)
    """The first beta of the optimizer; give optimizer_beta2 too."""
    optimizer_beta2: float | None = Field(default=None, ge=0, lt=1)
    """The second beta of the optimizer; give optimizer_beta1 too."""
    adam_beta1: Annotated[float, NoEffect("use optimizer_beta1")] = 0.9
    """The first beta of Adam, in old versions of SimpleTuner."""
    adam_beta2: Annotated[float, NoEffect("use optimizer_beta2")] = 0.999
    """The second beta of Adam, in old versions of SimpleTuner."""
    adam_weight_decay: Annotated[float, NoEffect("use optimizer_config weight_decay=...")] = 0.01
    """The weight decay of Adam, in old versions of SimpleTuner."""
    adam_epsilon: Annotated[float, NoEffect("use optimizer_config eps=...")] = 1e-8
    """The smallest divisor of Adam, in old versions of SimpleTuner."""
    prodigy_steps: Annotated[int | None, belongs_to("optimizer prodigy")] = None
    """The step after which Prodigy does not change the learning rate any more."""
    max_grad_norm: float = Field(default=2.0, ge=0)
    """How long a gradient may be; 0 does not limit it."""
    grad_clip_method: Annotated[str, CLIP_METHODS] = "norm"
    """How gradients that are too long are shortened."""
    fused_backward_pass: bool = False
    """Updates each weight as soon as its gradient is known, and drops the gradient: less memory."""
    gradient_precision: Annotated[
        str | None,
        words("gradient precision", {"unmodified": "As the weights."}, later={"fp32": "leave it out: as the weights"}),
    ] = None
    """The precision in which gradients are applied."""
    optimizer_release_gradients: Annotated[bool, NotYet("leave it out: with a LoRA, gradients are small")] = False
    """Applies each gradient at once and frees it."""
    optimizer_cpu_offload_method: Annotated[
        str | None, words("offload", {"none": "Keeps the optimizer on the card."})
    ] = None
    """Where the optimizer keeps what it remembers of each weight."""
    optimizer_offload_gradients: Annotated[bool, NotYet("leave it out: with a LoRA, gradients are small")] = False
    """Keeps gradients in main memory until they are applied."""
    fuse_optimizer: Annotated[bool, NoEffect("the fused form is always used where there is one")] = False
    """Uses the fused form of the optimizer."""
    set_grads_to_none: Annotated[bool, NoEffect("gradients are always freed after a step")] = False
    """Frees gradients after a step."""
    text_encoder_limit: Annotated[int, NoEffect("text encoders are not trained")] = 100
    """When the training of text encoders ended, in old versions of SimpleTuner."""

    @model_validator(mode="after")
    def _fits_together(self) -> Optimization:
        if (self.optimizer_beta1 is None) != (self.optimizer_beta2 is None):
            raise conflict("optimizer_beta1, optimizer_beta2", "go together; give both or neither")
        if self.lr_scheduler in {"cosine", "polynomial"} and self.learning_rate <= self.lr_end:
            rates = f"{self.learning_rate:g} is not above {self.lr_end:g}"
            raise conflict(
                "learning_rate, lr_end", f"{rates}, where the {self.lr_scheduler} schedule ends; lower lr_end"
            )
        return self
