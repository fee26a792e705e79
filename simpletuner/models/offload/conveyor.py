"""Brings frozen weights to the device when the network comes to them, forward and backward, and takes them away again.

Nothing here assumes an order: whatever computes asks for its weights first. So an extra pass, a validation image or a
block that is computed twice needs no preparation. What autograd would keep of the weights is replaced by the place
where they will be found again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from simpletuner.models.offload.carrier import Carrier
from simpletuner.models.offload.parcel import Parcel, Slot
from simpletuner.models.offload.schedule import Wanted

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Station:
    """Modules that compute one after the other with the weights of one parcel."""

    modules: Sequence[nn.Module]
    parcel: Parcel


class Conveyor:
    """Keeps the weights of some stations on the device, those that `wanted` names, and the others at home."""

    def __init__(self, stations: Sequence[Station], wanted: Wanted, carrier: Carrier) -> None:
        self._parcels = [station.parcel for station in stations]
        self._wanted = wanted
        self._carrier = carrier
        self._present: frozenset[int] = frozenset()
        self._open: list[AbstractContextManager[None]] = []
        for number, station in enumerate(stations):
            for module in station.modules:
                module.register_forward_pre_hook(partial(self._enter, number), with_kwargs=True)
                module.register_forward_hook(partial(self._leave, number), always_call=True)

    def need(self, number: int, *, backward: bool) -> None:
        """See that the weights of a station are on the device, and that no others are than those that are wanted."""
        wanted = self._wanted(number, backward)
        for other in sorted(self._present - wanted):
            self._carrier.take_away(self._parcels[other])
        coming = sorted(wanted - self._present, reverse=backward)
        for one in sorted(coming, key=lambda one: one != number):
            self._carrier.bring(self._parcels[one])
        self._present = wanted
        self._carrier.wait(self._parcels[number])

    def _enter(self, number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        import torch

        # A number means that this is a second computation for the sake of a gradient.
        self.need(number, backward=torch._C._current_graph_task_id() != -1)
        remembering = _remembering(self._parcels[number], partial(self.need, number, backward=True))
        remembering.__enter__()
        self._open.append(remembering)

    def _leave(self, number: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._open.pop().__exit__(None, None, None)
        # Packed weights may be kept in ways that no hook sees; so they are there before their gradient is asked for.
        for one in output if isinstance(output, tuple) else (output,):
            if one is not None and one.requires_grad:
                one.register_hook(partial(self._before_gradient, number))

    def _before_gradient(self, number: int, gradient: Tensor) -> None:
        self.need(number, backward=True)


def _remembering(parcel: Parcel, need: Callable[[], None]) -> AbstractContextManager[None]:
    """Inside the ``with``, autograd keeps places instead of weights; everything else goes to whoever kept it before."""
    import torch

    # The stubs of torch do not say that there may be none.
    outer: Any = torch._C._autograd._top_saved_tensors_default_hooks(False)
    keep, give = outer or (_same, _same)

    def pack(tensor: Tensor) -> Any:
        place = parcel.place_of(tensor)
        return keep(tensor) if place is None else place

    def unpack(kept: Any) -> Any:
        if not isinstance(kept, Slot):
            return give(kept)
        need()
        return parcel.at(kept)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _same(tensor: Tensor) -> Tensor:
    return tensor
