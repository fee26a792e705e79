"""Copies parcels to the device into memory that is used again and again, while the device computes if it can."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.cuda import Event

    from simpletuner.models.offload.parcel import Parcel


class Carrier:
    """Brings parcels and takes them away; the weights at home never change, so nothing is ever carried back."""

    def __init__(self, device: torch.device, *, is_overlapped: bool) -> None:
        """`is_overlapped` copies on a stream of its own, beside the computation; only cards of NVIDIA and AMD can."""
        import torch

        self._device = device
        self._stream = torch.cuda.Stream(device) if is_overlapped else None  # type: ignore[no-untyped-call]
        self._free: dict[int, list[tuple[Tensor, Event | None]]] = defaultdict(list)
        self._arrivals: dict[Parcel, Event] = {}

    def bring(self, parcel: Parcel) -> None:
        """Begin to copy the weights to the device."""
        import torch

        run, is_free = self._memory(parcel.length)
        if self._stream is None or is_free is None:
            parcel.copy_to(run, non_blocking=False)
        else:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(is_free)
                parcel.copy_to(run, non_blocking=True)
                self._arrivals[parcel] = self._stream.record_event()
        parcel.lend(run)

    def wait(self, parcel: Parcel) -> None:
        """Let the computation wait until the weights have arrived."""
        import torch

        arrival = self._arrivals.pop(parcel, None)
        if arrival is not None:
            torch.cuda.current_stream(self._device).wait_event(arrival)

    def take_away(self, parcel: Parcel) -> None:
        """Let another parcel have the memory, once the device has read what it still has to read."""
        self.wait(parcel)
        run = parcel.withdraw()
        if run is not None:
            self._free[run.numel()].append((run, self._now()))

    def _memory(self, length: int) -> tuple[Tensor, Event | None]:
        import torch

        if self._free[length]:
            return self._free[length].pop()
        return torch.empty(length, dtype=torch.uint8, device=self._device), self._now()

    def _now(self) -> Event | None:
        import torch

        return None if self._stream is None else torch.cuda.current_stream(self._device).record_event()
