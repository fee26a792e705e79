"""What options of the objective cannot be together, and which of them do nothing as they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from simpletuner.errors import Problem
from simpletuner.training.objective import choosing

if TYPE_CHECKING:
    from simpletuner.training.options import Objective


def conflicts(options: Objective) -> Iterator[Problem]:
    """Every contradiction."""
    yield from _forms(options)
    yield from _of_sd_scripts(options)
    yield from _limits(options)
    yield from _rollout(options)


def remarks(options: Objective) -> Iterator[str]:
    """Options that were changed and do nothing, each with the reason."""
    for loser, winner in _losers(options):
        yield f"{loser} has no effect: {winner} decides which noise levels are drawn"
    for names, is_used, reason in _IDLE:
        for name in names if not is_used(options) else ():
            if options.__dict__[name] != type(options).model_fields[name].default:
                yield f"{name} has no effect: {reason}"
    if _draws_on(options) and not _ever_draws_on(options):
        share = "probability" if options.scheduled_sampling_prob_start is None else "prob_start"
        yield f"scheduled_sampling_max_step_offset has no effect: scheduled_sampling_{share} is 0"
    if options.flow_reproduce_sd_scripts and options.flow_prediction_mode != "raw":
        yield (
            f"flow_prediction_mode {options.flow_prediction_mode} repeats what sd-scripts does by default, and FLUX "
            f"unlearns its own way of drawing by it; raw is what FLUX.1 was trained with"
        )


def offset_problem(options: Objective) -> str | None:
    """What is wrong with a timestep_sampling_offset of a data set, if something is."""
    if choosing.form(options) == "sigmoid":
        return None
    asked = "flow_timestep_sampling" if options.flow_timestep_sampling else choosing.asking(options)[0]
    return f"moves noise levels only where they are drawn around the middle, and {asked} draws others; leave one out"


def _forms(options: Objective) -> Iterator[Problem]:
    """Two ways of drawing noise levels at once."""
    asked = choosing.asking(options)
    if options.flow_timestep_sampling is not None and asked:
        # Among them may be one that the flavour asks for, which nobody can leave out.
        yield Problem("flow_timestep_sampling", f"draws noise levels, and so does {', '.join(asked)}; keep one")
    others = set(asked) & {"flow_custom_timesteps", "flow_use_uniform_schedule", "flow_use_beta_schedule"}
    if options.flow_cubic_schedule_weights and others:
        yield Problem("flow_cubic_schedule_weights", f"cannot be together with {', '.join(sorted(others))}; keep one")
    if options.mixflow_enabled and len(asked) > 1:
        yield Problem("mixflow_enabled", f"draws noise levels by itself; leave out {', '.join(asked[1:])}")


def _losers(options: Objective) -> Iterator[tuple[str, str]]:
    """Switches that lose against another one, as in SimpleTuner."""
    asked = choosing.asking(options)
    if options.flow_timestep_sampling is None:
        yield from ((loser, asked[0]) for loser in asked[1:])


def _of_sd_scripts(options: Objective) -> Iterator[Problem]:
    mode, scheme = options.flow_prediction_mode, options.flow_weighting_scheme
    if mode != "raw" and not options.flow_reproduce_sd_scripts:
        yield Problem(
            "flow_prediction_mode",
            f"'{mode}' compares things that are not the same: a FLUX that draws perfectly would have a large loss, and "
            f"unlearns it. Use raw; to repeat a run of sd-scripts all the same, set flow_reproduce_sd_scripts to true",
        )
    if scheme in {"logit_normal", "mode"} and options.flow_timestep_sampling != "sigma":
        yield Problem("flow_weighting_scheme", f"'{scheme}' needs flow_timestep_sampling sigma; set it, or use uniform")
    if scheme in {"sigma_sqrt", "cosmap"} and mode != "sigma_scaled":
        what = f"'{scheme}' acts only with flow_prediction_mode sigma_scaled; leave it out"
        yield Problem("flow_weighting_scheme", what)


def _limits(options: Objective) -> Iterator[Problem]:
    """Limits of noise levels for such as are given one by one."""
    if (options.min_timestep, options.max_timestep) == (0, 1000):
        return
    if options.max_timestep <= 1:
        most = 1000 * options.max_timestep
        yield Problem("max_timestep", f"counts to 1000, and {options.max_timestep:g} is hardly any noise; try {most:g}")
    if choosing.form(options) in {"fast", "custom"}:
        what = f"would move the levels that {choosing.asking(options)[0]} names; leave it out"
        yield Problem("min_timestep, max_timestep", what)


def _rollout(options: Objective) -> Iterator[Problem]:
    if not options.scheduled_sampling_max_step_offset:
        return
    name = "scheduled_sampling_max_step_offset"
    if options.mixflow_enabled:
        yield Problem(name, "and mixflow_enabled both change where samples start; keep one")
    if options.flow_prediction_mode != "raw":
        yield Problem(name, "lets the model draw, which needs flow_prediction_mode raw; set it, or leave this out")


def _names_shift(options: Objective) -> bool:
    """Whether flow_schedule_shift says anything: 0 beside flow_schedule_auto_shift is how SimpleTuner's users ask."""
    return bool(options.flow_schedule_shift) or options.flow_timestep_sampling is not None


def _draws_on(options: Objective) -> bool:
    return options.scheduled_sampling_max_step_offset > 0


def _ever_draws_on(options: Objective) -> bool:
    begin = options.scheduled_sampling_prob_start
    begin = options.scheduled_sampling_probability if begin is None else begin
    return begin > 0 or (options.scheduled_sampling_ramp_steps > 0 and options.scheduled_sampling_prob_end > 0)


_IDLE: tuple[tuple[tuple[str, ...], Callable[[Objective], bool], str], ...] = (
    (
        ("flow_beta_schedule_alpha", "flow_beta_schedule_beta"),
        lambda options: choosing.form(options) == "beta",
        "it acts with flow_use_beta_schedule",
    ),
    (
        ("flow_timesteps_mode",),
        lambda options: choosing.form(options) == "custom",
        "it acts with flow_custom_timesteps",
    ),
    (
        ("flow_sigmoid_scale",),
        lambda options: choosing.form(options) == "sigmoid",
        "noise levels are not drawn around the middle",
    ),
    (
        ("flow_schedule_shift",),
        lambda options: choosing.shifting(options) == "static" or not _names_shift(options),
        "flow_timestep_sampling or flow_schedule_auto_shift says another one, or none",
    ),
    (
        ("flow_schedule_shift", "flow_schedule_auto_shift"),
        lambda options: choosing.form(options) not in {"custom", "fast"},
        "noise levels that are given one by one are not moved",
    ),
    (
        ("flux_guidance_value",),
        lambda options: options.flux_guidance_mode == "constant",
        "flux_guidance_mode is random-range",
    ),
    (
        ("flux_guidance_min", "flux_guidance_max"),
        lambda options: options.flux_guidance_mode == "random-range",
        "flux_guidance_mode is constant",
    ),
    (
        ("flow_schedule_auto_shift",),
        lambda options: choosing.shifting(options) == "automatic",
        "flow_timestep_sampling says where the shift comes from",
    ),
    (
        ("flow_logit_mean", "flow_logit_std"),
        lambda options: options.flow_weighting_scheme == "logit_normal",
        "it acts with flow_weighting_scheme logit_normal",
    ),
    (
        ("flow_mode_scale",),
        lambda options: options.flow_weighting_scheme == "mode",
        "it acts with flow_weighting_scheme mode",
    ),
    (
        ("flow_reproduce_sd_scripts",),
        lambda options: options.flow_prediction_mode != "raw",
        "it allows other values of flow_prediction_mode than raw",
    ),
    (
        ("huber_schedule", "huber_c", "huber_scale"),
        lambda options: options.loss_type in {"huber", "smooth_l1"},
        "it acts with loss_type huber and smooth_l1",
    ),
    (
        ("input_perturbation_steps", "input_perturbation_random"),
        lambda options: options.input_perturbation > 0,
        "it acts with input_perturbation",
    ),
    (
        ("noise_offset", "noise_offset_probability", "noise_offset_random_strength", "adaptive_noise_scale"),
        lambda options: options.offset_noise,
        "it acts with offset_noise",
    ),
    (
        ("multires_noise_discount",),
        lambda options: options.multires_noise_iterations > 0,
        "it acts with multires_noise_iterations",
    ),
    (
        tuple(
            f"scheduled_sampling_{name}"
            for name in (
                *("probability", "prob_start", "prob_end", "ramp_steps", "start_step", "ramp_shape"),
                *("strategy", "sampler", "order", "reflexflow"),
            )
        ),
        _draws_on,
        "it acts with scheduled_sampling_max_step_offset",
    ),
    (
        ("scheduled_sampling_probability",),
        lambda options: not _draws_on(options) or options.scheduled_sampling_prob_start is None,
        "scheduled_sampling_prob_start says the share at the beginning",
    ),
    (
        ("scheduled_sampling_order",),
        lambda options: not _draws_on(options) or options.scheduled_sampling_sampler != "euler",
        "scheduled_sampling_sampler is euler, which looks back on none",
    ),
    (
        ("scheduled_sampling_prob_end", "scheduled_sampling_ramp_shape"),
        lambda options: not _draws_on(options) or options.scheduled_sampling_ramp_steps > 0,
        "it acts with scheduled_sampling_ramp_steps",
    ),
    (
        tuple(f"scheduled_sampling_reflexflow_{name}" for name in ("alpha", "beta1", "beta2")),
        lambda options: _draws_on(options) and bool(options.scheduled_sampling_reflexflow),
        "it acts with scheduled_sampling_reflexflow",
    ),
    (("mixflow_gamma",), lambda options: options.mixflow_enabled, "it acts with mixflow_enabled"),
)
"""Options, whether they do anything, and what to say when they do not."""
