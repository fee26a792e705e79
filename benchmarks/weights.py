"""How much memory do the weights of FLUX.1 take in each precision?

Counted, not measured: the network is built without its weights, and the layers that a precision packs are asked for.
Against bf16. A step needs memory for what it computes besides, and the adapter and its optimizer a little.
"""

from __future__ import annotations

import argparse

import setting
import torch
from diffusers import FluxTransformer2DModel

from simpletuner.models.flux.denoiser import FluxDenoiser
from simpletuner.models.precision import PRECISIONS, packable

BYTES = {"no_change": 2.0, "int8-quanto": 1.0, "nf4-bnb": 0.5 + 4 / 64}
"""Of one packed weight; nf4 keeps one float32 for every 64 weights."""


def main() -> None:
    """Print the size of the transformer in each precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    setting.print_setting()
    with torch.device("meta"):
        denoiser = FluxDenoiser(FluxTransformer2DModel(guidance_embeds=True))
    weights = sum(one.numel() for one in denoiser.module.parameters())
    packed = sum(layer.weight.numel() for _, layer in packable(denoiser.module, denoiser.blocks))
    print(f"{weights / 1e9:.2f} billion weights, of which {packed / 1e9:.2f} billion are packed\n")
    rows = []
    for name in PRECISIONS:
        total = packed * BYTES[name] + (weights - packed) * 2
        rows.append([name, f"{total / 1e9:.1f} GB", f"{total / 2**30:.1f} GiB", f"{total / weights / 2:.2f}"])
    setting.print_table(("base_model_precision", "weights", "of the card", "times bf16"), rows)


if __name__ == "__main__":
    main()
