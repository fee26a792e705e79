"""From the options of the optimizer and the schedule to how weights are updated, and what does not go together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from simpletuner.errors import Problem
from simpletuner.training import optimizers
from simpletuner.training.optimizers import OPTIMIZERS, Recipe, Settings, values
from simpletuner.training.options.optimization import Optimization
from simpletuner.training.options.steps import steps_of
from simpletuner.training.schedules import LR_SCHEDULES, LearningRate, read_rules


def learning_rate(options: Optimization, *, total_steps: int, images_per_step: int) -> LearningRate:
    """The learning rate at every step of a run."""
    recipe = OPTIMIZERS[options.optimizer]
    rules, last = read_rules(options.lr_step_rules) if options.lr_step_rules else ((), 1.0)
    return LearningRate(
        name=options.lr_scheduler if recipe.keeps_schedule else "constant_with_warmup",
        peak=peak(options, images_per_step),
        end=options.lr_end,
        warmup_steps=steps_of(options.lr_warmup_steps, total_steps),
        total_steps=total_steps,
        power=options.lr_power,
        cycles=options.lr_num_cycles,
        decay_steps=steps_of(options.lr_decay_steps, total_steps),
        timescale=options.lr_timescale,
        rules=rules,
        last_factor=last,
    )


def peak(options: Optimization, images_per_step: int) -> float:
    """The highest learning rate; for an optimizer that finds its own, the factor of that."""
    if OPTIMIZERS[options.optimizer].finds_rate:
        return float(_given(options).get("lr", 1.0))
    if not options.lr_scale:
        return options.learning_rate
    return options.learning_rate * (math.sqrt(images_per_step) if options.lr_scale_sqrt else images_per_step)


def measure(options: Optimization) -> float:
    """The rate that the own rates of some weights are compared with."""
    return peak(options, 1) if OPTIMIZERS[options.optimizer].finds_rate else options.learning_rate


def settings(options: Optimization, rate: float) -> Settings:
    """What the optimizer is made with."""
    stops_by, extra = OPTIMIZERS[options.optimizer].stops_by, _given(options)
    if stops_by and options.prodigy_steps is not None:
        extra = {stops_by: options.prodigy_steps, **extra}
    return Settings(rate, options.optimizer_beta1, options.optimizer_beta2, extra)


def try_out(options: Optimization) -> None:
    """Make the optimizer for nothing, to hear before all other work what it does not take.

    Raises:
        ConfigError: It is not installed, or does not take a setting.
    """
    optimizers.try_out(options.optimizer, settings(options, peak(options, 1)))


def _given(options: Optimization) -> dict[str, Any]:
    return dict(options.optimizer_config or {})


def conflicts(options: Optimization) -> Iterator[Problem]:
    """What the chosen optimizer and schedule cannot do."""
    recipe = OPTIMIZERS.get(options.optimizer)
    if recipe is None:  # not served, which is said elsewhere
        return
    called = f"'{options.optimizer}'"
    if said := recipe.library.missing():
        yield Problem("optimizer", f"{called} {said}")
    if options.optimizer_beta1 is not None and not recipe.has_betas:
        yield Problem("optimizer_beta1, optimizer_beta2", f"{called} has no betas; leave them out")
    if options.updates_in_backward and not recipe.goes_by_weight:
        what = "needs the gradients of all weights at once; leave it out, or take adamw_bf16 or torch-adamw"
        yield Problem(fused(options), f"{called} {what}")
    if recipe.finds_rate and options.lr_scale:
        yield Problem("lr_scale", f"{called} finds the learning rate by itself; leave it out")
    if not recipe.finds_rate and "lr" in _given(options):
        yield Problem("optimizer_config", "has an lr in it; set learning_rate instead")
    yield from _twice(options, recipe)
    if said := values.wrong(_given(options), recipe.defaults):
        yield Problem("optimizer_config", f"{said}, for optimizer {called}")


def _twice(options: Optimization, recipe: Recipe) -> Iterator[Problem]:
    """Settings that are in optimizer_config and in an option of their own."""
    pairs = {
        "prodigy_steps": (recipe.stops_by, options.prodigy_steps),
        "optimizer_beta1, optimizer_beta2": ("betas", options.optimizer_beta1),
    }
    for option, (name, value) in pairs.items():
        if value is not None and name in _given(options):
            yield Problem(option, f"is said by {name} in optimizer_config too; keep one of them")


def fused(options: Optimization) -> str:
    """The option that asks for updates in the backward pass."""
    return "fused_backward_pass" if options.fused_backward_pass else "optimizer_release_gradients"


def remarks(options: Optimization) -> Iterator[str]:
    """What has no effect with the chosen optimizer and schedule."""
    recipe, called = OPTIMIZERS.get(options.optimizer), f"optimizer {options.optimizer}"
    if recipe is None:  # not served, which is said elsewhere
        return
    if recipe.instead_of:
        yield f"{called} is a name of {recipe.instead_of}'s; here, {recipe.path} does its work"
    if recipe.finds_rate and "learning_rate" in options.model_fields_set and options.learning_rate != 1:
        yield (
            f"learning_rate has no effect: {called} finds the learning rate by itself, times {peak(options, 1):g}; "
            f"lr in optimizer_config changes that factor"
        )
    if _given(options).get("relative_step"):
        yield "learning_rate and lr_scheduler have no effect: relative_step makes the learning rate by itself"
    if recipe.limits_gradients and "max_grad_norm" in options.model_fields_set and options.max_grad_norm > 0:
        yield f"max_grad_norm has no effect: {called} limits gradients by itself"
    if options.max_grad_norm == 0 and options.grad_clip_method != "norm":
        yield "grad_clip_method has no effect: max_grad_norm is 0"
    if options.lr_scale_sqrt and not options.lr_scale:
        yield "lr_scale_sqrt has no effect: lr_scale is not set"
    if options.prodigy_steps is not None and not recipe.stops_by:
        yield f"prodigy_steps has no effect: it is for optimizer prodigy, and this is {called}"
    yield from _of_schedule(options, recipe, called)


def as_factors(options: Optimization) -> str | None:
    """What the own rates of some weights mean, where an optimizer finds the rate."""
    if not OPTIMIZERS[options.optimizer].finds_rate:
        return None
    return f"multiplies the learning rate that {options.optimizer} finds; {measure(options):g} does not change it"


def too_long(options: Optimization, steps: int) -> Iterator[str]:
    """Parts of a schedule that a run of so many steps does not reach."""
    warmup = steps_of(options.lr_warmup_steps, steps)
    if warmup >= steps:
        yield f"the learning rate only rises: lr_warmup_steps is {warmup}, and the run ends at step {steps}"
    if options.lr_step_rules and (late := [step for step, _ in read_rules(options.lr_step_rules)[0] if step >= steps]):
        yield f"lr_step_rules has a rule for step {late[0]} that is never reached: the run ends at step {steps}"


def _of_schedule(options: Optimization, recipe: Recipe, called: str) -> Iterator[str]:
    """Options of a schedule that is not the chosen one."""
    if not recipe.keeps_schedule:
        if not options.lr_scheduler.startswith("constant"):
            yield f"lr_scheduler has no effect: {called} needs no schedule, and its rate is constant after the warm-up"
        return
    uses = LR_SCHEDULES[options.lr_scheduler].uses
    for name in sorted(frozenset().union(*(one.uses for one in LR_SCHEDULES.values())) - uses):
        if options.__dict__[name] != type(options).model_fields[name].default:
            yield f"{name} has no effect: lr_scheduler is {options.lr_scheduler}"
