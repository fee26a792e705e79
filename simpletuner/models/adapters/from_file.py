"""Training that goes on from a LoRA file of any form: its ranks and alphas, then its weights."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats.files import read_adapter
from simpletuner.models.adapters.formats.fitting import check_fit
from simpletuner.models.adapters.formats.neutral import TRANSFORMER, LowRank
from simpletuner.models.adapters.layers import Layer
from simpletuner.models.adapters.lora_state import ADAPTER
from simpletuner.models.adapters.starts import plain_weight

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FileStart:
    """The part of an adapter file that belongs to the network."""

    path: str
    layers: Mapping[str, LowRank]

    @staticmethod
    def read(
        path: str,
        known: Mapping[str, tuple[int, int]],
        *,
        use_dora: bool,
        part: str = TRANSFORMER,
        parts: Collection[str] = (),
    ) -> FileStart:
        """Read a file and see that it is of a network with layers of these shapes.

        Raises:
            ModelError: It is not, or it is DoRA and the run is not.
        """
        adapter = read_adapter(path)
        layers = adapter.of(part)
        check_fit(layers, known, path)
        if not layers:
            raise ModelError(f"init_lora: '{path}' has nothing for the {part}, which is what is trained.")
        if adapter.has_magnitudes and not use_dora:
            raise ModelError(f"init_lora: '{path}' is DoRA; set use_dora to true to go on with it.")
        if len(adapter.layers) > sum(len(adapter.of(one)) for one in {part, *parts}):
            _LOG.warning("init_lora: what '%s' has besides the %s is left out; it is not trained", path, part)
        return FileStart(path, layers)

    def sizes(self, chosen: Sequence[Layer], names: Sequence[str], *, use_rslora: bool) -> tuple[Layer, ...]:
        """The chosen layers and those of the file, which bring their own rank and alpha."""
        known = {layer.name: layer for layer in chosen}
        for name, weights in self.layers.items():
            alpha = weights.scale * (weights.rank**0.5 if use_rslora else weights.rank)
            rate = known[name].learning_rate if name in known else None
            known[name] = Layer(name, weights.rank, alpha, rate)
        return tuple(known[name] for name in names if name in known)

    def put(self, layers: Mapping[str, Any], dtype: torch.dtype) -> None:
        """Give the attached layers the weights of the file."""
        for name, weights in self.layers.items():
            layer = layers[name]
            for own, read in ((layer.lora_A[ADAPTER], weights.down), (layer.lora_B[ADAPTER], weights.up)):
                # What was read lies in the file itself, which may change.
                own.weight.data = read.to(own.weight.device, dtype, copy=True)
            if ADAPTER in layer.lora_magnitude_vector:
                _put_magnitude(layer, weights)


def _put_magnitude(layer: Any, weights: LowRank) -> None:
    """The file's lengths of the rows, or for a plain LoRA those that its weights have."""
    vector = layer.lora_magnitude_vector[ADAPTER].weight
    found = weights.magnitude
    if found is None:
        base = plain_weight(layer.get_base_layer())
        found = (base + weights.delta().to(base)).norm(dim=1)
    vector.data = found.to(vector.device, vector.dtype, copy=True)


_LOG = logging.getLogger(__name__)
