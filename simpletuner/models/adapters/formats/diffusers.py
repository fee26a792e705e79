"""The names that diffusers uses; ComfyUI and others read them too."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats import places
from simpletuner.models.adapters.formats.names import CLIP_LAYERS, DIFFUSERS_OR_FUSED, T5_LAYERS, Names, Place
from simpletuner.models.adapters.formats.neutral import CLIP, CONTROLNET, PARTS, T5, TRANSFORMER, Lora, LowRank

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS = "lora_adapter_metadata"
"""The entry of the header with the settings that the adapter was made with, as JSON."""

_TRANSFORMER = (TRANSFORMER, Names(DIFFUSERS_OR_FUSED))
_READ: places.Prefixes = {
    "transformer.": _TRANSFORMER,
    "base_model.model.transformer.": _TRANSFORMER,
    "base_model.model.": _TRANSFORMER,
    "": _TRANSFORMER,
    "text_encoder.": (CLIP, Names(CLIP_LAYERS)),
    "text_encoder_2.": (T5, Names(T5_LAYERS)),
    "controlnet.": (CONTROLNET, Names(DIFFUSERS_OR_FUSED)),
}


def place(layer: str) -> Place | None:
    """Where a layer of a file in this format belongs."""
    # Since version 5 of transformers CLIP has no level called "text_model".
    layer = re.sub(r"^text_encoder\.(?=encoder\.)", "text_encoder.text_model.", layer)
    return places.place(_READ, layer)


def read(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Lora:
    """The adapter in a file of this format."""
    return Lora(places.read(tensors, place, _alphas(header)), header)


def _alphas(header: Mapping[str, str]) -> Callable[[str, int], float]:
    """What the header says about the alpha of a layer, given its name in the file and its rank."""
    settings = _settings(header)

    def alpha(name: str, rank: int) -> float:
        part = next((part for part in PARTS if name.startswith(f"{part}.")), TRANSFORMER)
        own = {key.removeprefix(f"{part}."): value for key, value in settings.items() if key.startswith(f"{part}.")}
        inside = re.sub(rf"^(base_model\.model\.)?({part}\.)?(text_model\.)?", "", name)
        said = _matching(own.get("alpha_pattern") or {}, inside, own.get("lora_alpha") or rank)
        # With rsLoRA the product is divided by the root of the rank.
        return float(said) * (rank**0.5 if own.get("use_rslora") else 1.0)

    return alpha


def _settings(header: Mapping[str, str]) -> dict[str, Any]:
    try:
        said = json.loads(header.get(SETTINGS, "{}"))
    except json.JSONDecodeError as error:
        raise ModelError(f"{SETTINGS} in its header is no JSON: {error}. Save the adapter anew.") from error
    return said if isinstance(said, dict) else {}


def _matching(patterns: Mapping[str, float], name: str, otherwise: float) -> float:
    """The value of the first pattern that fits a layer, by PEFT's rule."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), otherwise)


def write(lora: Lora) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and the settings in its header; alpha is folded into the weights.

    A reader of diffusers' names that knows nothing of the header takes alpha for the rank.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in lora.layers.items():
        folded = layer.folded()
        tensors[f"{name}.lora_A.weight"] = folded.down
        tensors[f"{name}.lora_B.weight"] = folded.up
        if folded.magnitude is not None:
            tensors[name + _MAGNITUDE[name.partition(".")[0]]] = folded.magnitude
    said = {f"{part}.{key}": value for part in PARTS if lora.of(part) for key, value in settings(lora, part).items()}
    return tensors, {SETTINGS: json.dumps(said, sort_keys=True)}


_MAGNITUDE = {
    TRANSFORMER: ".lora_magnitude_vector",
    # Version 5 of transformers drops the shorter name without an error, and the lengths with it.
    CLIP: ".lora_magnitude_vector.weight",
    T5: ".lora_magnitude_vector.weight",
    CONTROLNET: ".lora_magnitude_vector",
}


def settings(lora: Lora, part: str) -> dict[str, Any]:
    """What PEFT has to know to build the adapter of one part of the model with folded weights.

    More than this would keep other versions of PEFT from loading the file.
    """
    layers = {name.removeprefix("text_model."): layer for name, layer in lora.of(part).items()}
    _refuse_partly_dora(layers)
    rank = Counter(layer.rank for layer in layers.values()).most_common(1)[0][0]
    others = {f"^{re.escape(name)}": layer.rank for name, layer in layers.items() if layer.rank != rank}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": _targets(layers),
        "bias": "none",
        # A loader that finds dropout here keeps it active when it draws; it is over when training is.
        "lora_dropout": 0.0,
        **({"use_dora": True} if any(layer.magnitude is not None for layer in layers.values()) else {}),
    }


def _refuse_partly_dora(layers: Mapping[str, LowRank]) -> None:
    plain = [name for name, layer in layers.items() if layer.magnitude is None]
    if plain and len(plain) < len(layers):
        raise ModelError(
            f"'{plain[0]}' has no DoRA lengths while other layers have them, which the diffusers format cannot hold. "
            f"Use the comfyui format."
        )


def _targets(layers: Mapping[str, LowRank]) -> list[str] | str:
    """The layers by name; as one pattern where a name is also the end of others, which PEFT would take too."""
    names = sorted(layers)
    return "|".join(map(re.escape, names)) if "proj_out" in layers else names
