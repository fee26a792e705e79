"""Numbers of blocks in a config that the model does not have, told before anything of it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from simpletuner.errors import ModelError, Problem
from simpletuner.models import tread
from simpletuner.models.adapters.layers import block_numbers
from simpletuner.models.controlling import DOUBLE_BLOCKS, SINGLE_BLOCKS, ControlNetShape
from simpletuner.models.tread import Route

if TYPE_CHECKING:
    from simpletuner.models.options import Adapter, Model, Routing

Counts = Callable[[], Sequence[int]]


def problems(model: Model, adapter: Adapter, routing: Routing, counts: Counts) -> Iterator[Problem]:
    """Each number that is too high, and routes that meet in a block.

    Args:
        model: Options about the model.
        adapter: Options about the adapter.
        routing: Options about token routing.
        counts: Tells how many blocks of each kind the model has, or nothing if that is not known.
    """
    shape = model.controlnet_custom_config
    if not (routing.tread_config or shape or any(_indices(adapter).values())):
        return
    found = counts()
    if not found:
        return
    yield from _of_routes(routing, sum(found))
    yield from _of_controlnet(shape, found)
    if model.controlnet_model_name_or_path is None:
        yield from _of_adapter(adapter, _own(shape, found) if model.controlnet else found)


def _indices(adapter: Adapter) -> dict[str, frozenset[int] | None]:
    return {kind: block_numbers(adapter.__dict__[f"train_{kind}_block_indices"]) for kind in ("double", "single")}


def _own(shape: ControlNetShape | None, found: Sequence[int]) -> Sequence[int]:
    """How many blocks a new ControlNet has."""
    asked = (shape.num_layers, shape.num_single_layers) if shape else (None, None)
    wanted = zip(asked, (DOUBLE_BLOCKS, SINGLE_BLOCKS), found, strict=True)
    return [min(there, usual if one is None else one) for one, usual, there in wanted]


def _of_adapter(adapter: Adapter, found: Sequence[int]) -> Iterator[Problem]:
    for (kind, numbers), count in zip(_indices(adapter).items(), found, strict=False):
        if numbers and max(numbers) >= count:
            there = f"the network has {count} {kind} blocks, counted from 0"
            yield Problem(f"train_{kind}_block_indices", f"names block {max(numbers)}, and {there}; leave it out")


def _of_controlnet(shape: ControlNetShape | None, found: Sequence[int]) -> Iterator[Problem]:
    for name, count in zip(("num_layers", "num_single_layers"), found, strict=False):
        asked = shape.__dict__[name] if shape else None
        if asked is not None and asked > count:
            what = f"is {asked}, and the model of whose blocks it is a copy has {count}; lower it"
            yield Problem(f"controlnet_custom_config.{name}", what)


def _of_routes(routing: Routing, count: int) -> Iterator[Problem]:
    given = routing.tread_config.routes if routing.tread_config else ()
    try:
        tread.check([Route(one.start_layer_idx, one.end_layer_idx, one.selection_ratio) for one in given], count)
    except ModelError as error:
        yield Problem("tread_config", str(error).removeprefix("tread_config ").rstrip("."))
