"""How much memory do the weights of FLUX.1 take in each precision?

Counted, not measured: the network is built and packed without its weights, and what it would hold is added up.
Against bf16. A step needs memory for what it computes besides, and the adapter and its optimizer a little.
"""

from __future__ import annotations

import argparse

import setting
import torch
from diffusers import FluxTransformer2DModel

from simpletuner.models.flux.denoiser import FluxDenoiser
from simpletuner.models.precision import PRECISIONS, packable


def main() -> None:
    """Print the size of the transformer in each precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    setting.print_setting()
    denoiser = _flux()
    weights = sum(one.numel() for one in denoiser.module.parameters())
    packed = sum(layer.weight.numel() for _, layer in packable(denoiser.module, denoiser.blocks))
    print(f"{weights / 1e9:.2f} billion weights, of which {packed / 1e9:.2f} billion are packed\n")
    rows = []
    for name in PRECISIONS:
        total = bytes_in(name)
        rows.append([name, f"{total / 1e9:.1f} GB", f"{total / 2**30:.1f} GiB", f"{total / weights / 2:.2f}"])
    setting.print_table(("base_model_precision", "weights", "of the card", "times bf16"), rows)


def bytes_in(precision: str) -> int:
    """What the transformer of FLUX.1 dev takes in this precision, with everything else in bf16."""
    denoiser = _flux()
    PRECISIONS[precision](denoiser.module, denoiser.blocks)
    held = (*denoiser.module.parameters(), *denoiser.module.buffers())
    return sum(one.numel() * one.element_size() for one in held)


def _flux() -> FluxDenoiser:
    with torch.device("meta"):
        return FluxDenoiser(FluxTransformer2DModel(guidance_embeds=True).to(torch.bfloat16).requires_grad_(False))


if __name__ == "__main__":
    main()
