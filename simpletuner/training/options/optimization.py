"""How the trained weights are updated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from simpletuner.schema import IfChanged, NoEffect, NotYet, Section, conflict, words
from simpletuner.training.optimizers import OPTIMIZERS
from simpletuner.training.options.settings import read_settings
from simpletuner.training.options.steps import Steps
from simpletuner.training.schedules import LR_SCHEDULES, read_rules

CLIP_METHODS = words(
    "gradient clipping",
    {
        "norm": "Shortens the gradient as a whole to max_grad_norm and keeps its direction.",
        "value": "Limits each number of the gradient to max_grad_norm by itself.",
    },
)

NON_FINITE = words(
    "action",
    {
        "stop": "Ends the run with the names of the images; the last checkpoint is unharmed.",
        "skip": "Leaves the step out, tells so, and ends the run only after ten such steps in a row.",
    },
)

_FP32 = "As the weights: these are in float32, and adamw_bf16, which trains bf16 weights, computes in float32."


class Optimization(Section):
    """How the trained weights are updated."""

    if_changed: ClassVar[IfChanged] = IfChanged.TOLD

    learning_rate: float = Field(default=1e-4, gt=0)
    """How far each step goes; the peak, reached after the warm-up."""
    lr_scheduler: Annotated[str, LR_SCHEDULES] = "constant_with_warmup"
    """How the learning rate moves over the run."""
    lr_warmup_steps: Steps = 0
    """The steps over which the learning rate rises from zero to its peak: a number, a share such as 0.05, or 5%."""
    lr_decay_steps: Steps = 0.1
    """The last steps, in which warmup_stable_decay falls: a number, a share such as 0.1, or 10%."""
    lr_num_cycles: int = Field(default=1, ge=1)
    """How often cosine_with_restarts and sine fall."""
    lr_timescale: int | None = Field(default=None, ge=1)
    """How slowly inverse_sqrt falls: after three times as many steps it is at half; the warm-up steps when not set."""
    lr_step_rules: str | None = None
    """The rates of piecewise_constant: 1:100,0.1:200,0.01 is all of it for 100 steps, a tenth up to 200, then less."""
    lr_power: float = Field(default=0.8, gt=0)
    """How the polynomial schedule bends: 1 is a straight line."""
    lr_end: float = Field(default=4e-7, ge=0)
    """Where schedules end that do not fall to zero: cosine and its kin, sine, polynomial, rex, warmup_stable_decay."""
    lr_scale: bool = False
    """Multiplies the learning rate by the number of images in a step."""
    lr_scale_sqrt: bool = False
    """With lr_scale, multiplies by the square root of that number."""
    optimizer: Annotated[str, OPTIMIZERS, IfChanged.REFUSED] = "adamw_bf16"
    """Which optimizer updates the trained weights."""
    optimizer_config: Annotated[Mapping[str, Any] | None, BeforeValidator(read_settings)] = None
    """Settings of the optimizer: an object, or text such as weight_decay=0.01,betas=0.9,0.99."""
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
    prodigy_steps: int | None = Field(default=None, ge=0)
    """The step after which optimizer prodigy does not change the learning rate any more."""
    max_grad_norm: float = Field(default=2.0, ge=0)
    """How long a gradient may be; 0 does not limit it."""
    grad_clip_method: Annotated[str, CLIP_METHODS] = "norm"
    """How gradients that are too long are shortened."""
    non_finite_action: Annotated[str, NON_FINITE] = "stop"
    """What is done about a step whose loss or gradient is not a finite number."""
    loss_spike_factor: float = Field(default=10.0, ge=0)
    """A loss so many times above the usual one is told, with the images that it came from; 0 tells of none."""
    fused_backward_pass: bool = False
    """Updates each weight as soon as its gradient is known, and drops the gradient: less memory."""
    gradient_precision: Annotated[
        str | None,
        words("gradient precision", {"unmodified": "As the weights.", "fp32": _FP32}),
    ] = None
    """The precision in which gradients are applied."""
    optimizer_release_gradients: bool = False
    """Another name for fused_backward_pass."""
    optimizer_cpu_offload_method: Annotated[
        str | None, words("offload", {"none": "Keeps the optimizer on the card."})
    ] = None
    """Where the optimizer keeps what it remembers of each weight."""
    optimizer_offload_gradients: Annotated[bool, NotYet("set fused_backward_pass, which keeps no gradients")] = False
    """Keeps gradients in main memory until they are applied."""
    fuse_optimizer: Annotated[bool, NoEffect("the fused form is always used where there is one")] = False
    """Uses the fused form of the optimizer."""
    set_grads_to_none: Annotated[bool, NoEffect("gradients are always freed after a step")] = False
    """Frees gradients after a step."""
    text_encoder_limit: Annotated[int, NoEffect("text encoders are trained to the end, if at all")] = 100
    """When the training of text encoders ended, in old versions of SimpleTuner."""

    @model_validator(mode="after")
    def _fits_together(self) -> Optimization:
        if (self.optimizer_beta1 is None) != (self.optimizer_beta2 is None):
            raise conflict("optimizer_beta1, optimizer_beta2", "go together; give both or neither")
        if (self.lr_scheduler == "piecewise_constant") != (self.lr_step_rules is not None):
            raise conflict("lr_scheduler, lr_step_rules", "go together: piecewise_constant needs rules, and only it")
        if self._falls_to_end() and self.learning_rate <= self.lr_end:
            rates = f"{self.learning_rate:g} is not above {self.lr_end:g}"
            raise conflict(
                "learning_rate, lr_end", f"{rates}, where the {self.lr_scheduler} schedule ends; lower lr_end"
            )
        return self

    def _falls_to_end(self) -> bool:
        """Whether learning_rate goes to lr_end: not where an optimizer finds it, or needs no schedule."""
        recipe = OPTIMIZERS.get(self.optimizer)
        is_given = recipe is not None and recipe.keeps_schedule and not recipe.finds_rate
        return is_given and LR_SCHEDULES[self.lr_scheduler].falls_to_end

    @field_validator("lr_step_rules")
    @classmethod
    def _rules(cls, text: str | None) -> str | None:
        if text is not None:
            read_rules(text)
        return text

    @field_validator("optimizer_config")
    @classmethod
    def _rate(cls, given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        rate = (given or {}).get("lr", 1.0)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise ValueError(f"has an lr that is not a number above 0: {rate!r}")
        return given

    @property
    def updates_in_backward(self) -> bool:
        """Whether each weight is updated as soon as its gradient is known."""
        return self.fused_backward_pass or self.optimizer_release_gradients

    @property
    def gradient_limit(self) -> float:
        """How long a gradient may be; 0 for no limit, as where the optimizer limits gradients by itself."""
        recipe = OPTIMIZERS.get(self.optimizer)
        return 0.0 if recipe is not None and recipe.limits_gradients else self.max_grad_norm
