"""What watches over a run: guards for its numbers, and gauges for what it costs."""

from __future__ import annotations

from simpletuner import levers
from simpletuner.config import RunConfig
from simpletuner.models.tread import Route
from simpletuner.progress import Reporter
from simpletuner.training.gauges import Gauges, rate_of
from simpletuner.training.guards import Guards
from simpletuner.training.runtime import Runtime


def guards(config: RunConfig, reporter: Reporter) -> Guards:
    """What is done about numbers that are not finite, and told about losses that jump."""
    options = config.optimization
    return Guards(options.non_finite_action, options.loss_spike_factor, reporter, levers.steadiness(config))


def gauges(config: RunConfig, runtime: Runtime, blocks: int) -> Gauges:
    """What measures memory and speed; `blocks` is how many blocks the network has."""
    # One pass forward, and one for the gradients of what flows through; of the weights too, where all are trained.
    passes = 3.0 if config.model.model_type == "full" else 2.0
    rate = rate_of(runtime.device, runtime.compute.dtype) * runtime.processes
    return Gauges(runtime.device, rate, passes * _kept(config, blocks))


def _kept(config: RunConfig, blocks: int) -> float:
    """The share of the work that is left when tokens are routed around blocks."""
    tread = config.routing.tread_config
    if tread is None:
        return 1.0
    routes = [Route(one.start_layer_idx, one.end_layer_idx, one.selection_ratio) for one in tread.routes]
    return 1.0 - sum(one.ratio * len(one.span(blocks)) / blocks for one in routes)
