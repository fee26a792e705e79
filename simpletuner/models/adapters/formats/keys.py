"""The tensors of a LoRA file, gathered layer by layer whatever the two matrices are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats.neutral import LowRank

if TYPE_CHECKING:
    from torch import Tensor

Roles = Mapping[str, "Tensor"]
"""The tensors of one layer: down, up, and perhaps alpha and magnitude."""

# PEFT writes the name of the adapter between "lora_A" and "weight" where it is not taken out.
_ROLES = {
    "down": r"lora_A(?:\.\w+)?\.weight|lora_down\.weight|lora(?:_linear_layer)?\.down\.weight|down\.weight",
    "up": r"lora_B(?:\.\w+)?\.weight|lora_up\.weight|lora(?:_linear_layer)?\.up\.weight|up\.weight",
    "alpha": r"alpha",
    "magnitude": r"lora_magnitude_vector(?:\.\w+)?(?:\.weight)?|dora_scale",
}
_KEY = re.compile(rf"(?P<layer>.+?)\.(?:{'|'.join(f'(?P<{role}>{names})' for role, names in _ROLES.items())})")

_OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "dyn_up": "DyLoRA",
    "glora": "GLoRA",
    ".on_input": "IA3",
}
# CLIP's projection comes after the vector that Flux reads.
_WITHOUT_EFFECT = re.compile(r"text_projection")


def layer_of(key: str) -> str | None:
    """The layer that a tensor of a LoRA file belongs to; nothing when it is another kind of tensor."""
    found = _KEY.fullmatch(key)
    return found and found["layer"]


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Roles]:
    """The tensors of a file by layer and role.

    Raises:
        ModelError: A tensor is no part of a LoRA and would be left out with an effect.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = _KEY.fullmatch(key)
        if _WITHOUT_EFFECT.search(key):
            continue
        if found is None:
            _refuse_unless_zero(key, tensor)
        elif found.lastgroup:
            layers.setdefault(found["layer"], {})[found.lastgroup] = tensor
    return dict(layers)


def _refuse_unless_zero(key: str, tensor: Tensor) -> None:
    if tensor.any():
        raise ModelError(
            f"'{key}' is no part of a LoRA and would be lost. Save the adapter without it, or use it in the program "
            f"that made it."
        )


def refuse_other_kinds(keys: Iterable[str]) -> None:
    """Raise a ModelError when a file holds an adapter that is no LoRA."""
    for key in keys:
        kind = next((kind for word, kind in _OTHER_KINDS.items() if word in key), None)
        if kind:
            raise ModelError(
                f"it is a LyCORIS adapter of the kind {kind} ('{key}'), which is no LoRA and cannot be written as one "
                f"without a loss. Use it with lora_type lycoris, or merge it into the model."
            )


def low_rank(name: str, roles: Roles, alpha: Callable[[str, int], float]) -> LowRank:
    """One layer, checked; `alpha` says the layer's alpha where the file has no tensor of it."""
    missing = [role for role in ("down", "up") if role not in roles]
    if missing:
        raise ModelError(f"'{name}' has no {' and no '.join(missing)} matrix. The file is incomplete; fetch it anew.")
    down, up = _matrix(roles["down"]), _matrix(roles["up"])
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1] or not down.shape[0]:
        raise ModelError(
            f"the matrices of '{name}' have shapes {tuple(down.shape)} and {tuple(up.shape)}, which do not belong to "
            f"one LoRA. The file is damaged; fetch it anew."
        )
    rank = down.shape[0]
    said = float(roles["alpha"]) if "alpha" in roles else alpha(name, rank)
    return LowRank(down, up, said, _lengths(name, roles, up.shape[0]))


def _matrix(weights: Tensor) -> Tensor:
    """Without the two ones at the end that a convolution of one pixel has."""
    return weights.flatten(1) if weights.dim() == 4 and weights.shape[2:].numel() == 1 else weights


def _lengths(name: str, roles: Roles, outputs: int) -> Tensor | None:
    if "magnitude" not in roles:
        return None
    lengths = roles["magnitude"]
    if lengths.shape[0] != outputs or lengths.numel() != outputs:
        raise ModelError(
            f"the DoRA lengths of '{name}' are those of its inputs, and only those of outputs are served. Train it "
            f"with lengths of the outputs, or merge it into the model with the program that made it."
        )
    return lengths.flatten()


def without_alpha(_name: str, rank: int) -> float:
    """Where a file says nothing about alpha, it is the rank."""
    return float(rank)


def with_alphas(layers: Mapping[str, LowRank], down: str, up: str) -> dict[str, Tensor]:
    """The tensors of a file that keeps alpha beside each layer."""
    import torch

    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{name}.{down}.weight"] = layer.down
        tensors[f"{name}.{up}.weight"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
        if layer.magnitude is not None:
            tensors[f"{name}.dora_scale"] = layer.magnitude.unsqueeze(1)
    return tensors


def layers_of(keys: Iterable[str]) -> list[str]:
    """The layers that a file names, each once."""
    return list(dict.fromkeys(layer for key in keys if (layer := layer_of(key))))
