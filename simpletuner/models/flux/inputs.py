"""How many channels a transformer of FLUX.1 takes, which tells what it sees besides the noisy image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simpletuner.models.flux.flavours import FLAVOURS

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

MASK = 8 * 8 * 2 * 2
"""The pixels of a mask under one token."""


def further(config: Mapping[str, Any]) -> int:
    """How many channels of a token are not those of the noisy image."""
    return int(config["in_channels"]) - answered(config)


def answered(config: Mapping[str, Any]) -> int:
    """How many channels of a token the network answers with, which are those of the noisy image."""
    return int(config.get("out_channels") or config["in_channels"])


def wrong_with(config: Mapping[str, Any], flavour: str | None, *, follows: bool) -> str | None:
    """What is wrong with a transformer of this config for a flavour; None when it is as it should be.

    Args:
        config: Of the transformer; empty where it is not known yet.
        flavour: Which it should be.
        follows: Whether it is given a picture to follow.
    """
    if "in_channels" not in config:
        return None
    found, image = further(config), answered(config)
    fills = flavour is not None and FLAVOURS[flavour].fills
    if found == (image + MASK if fills else 0) or (found == image and not fills and follows):
        return None
    takes = f"takes {config['in_channels']} channels"
    if fills:
        return f"'fill' needs a transformer with {2 * image + MASK} channels, and this one {takes}; use another flavour"
    if found == image + MASK:
        return f"this transformer {takes}, as FLUX.1 Fill does; set model_flavour to fill"
    if found == image:
        return f"this transformer {takes}, as FLUX.1 Canny and Depth do; set control to true"
    return f"this transformer {takes}, and so sees something besides the image that is not known here; use another one"


def wrong_codec(config: Mapping[str, Any], codec: Mapping[str, Any]) -> str | None:
    """What is wrong with an image encoder of this config for a transformer, both empty where they are not known yet."""
    made, taken = codec.get("latent_channels"), (answered(config) if config else _PUBLISHED) // _PATCH
    if made is None or made == taken:
        return None
    return f"makes latents of {made} channels, and the transformer takes {taken}; leave it out, or use one of FLUX.1"


_PATCH = 4
"""The latents under one token."""
_PUBLISHED = 64
"""The channels with which every published transformer answers."""


def widened(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of a transformer that has places for a picture to follow besides the image."""
    image = answered(config)
    return config if further(config) else {**config, "in_channels": 2 * image, "out_channels": image}


def widen(module: FluxTransformer2DModel) -> None:
    """Give the layer that takes the image in places for a picture to follow; at first nothing is heard of it."""
    import torch
    from torch import nn

    wanted, taken = widened(module.config), module.x_embedder
    if wanted is module.config:
        return
    wide = nn.Linear(wanted["in_channels"], taken.out_features, device="meta")
    known = taken.weight.detach()
    wide.weight = nn.Parameter(torch.cat([known, torch.zeros_like(known)], dim=1), requires_grad=False)
    wide.bias = taken.bias
    module.x_embedder = wide
    module.register_to_config(**{name: wanted[name] for name in ("in_channels", "out_channels")})
