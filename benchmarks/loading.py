"""How much memory does loading FLUX.1 take, and for how long does one wait?

A transformer of the true width with a few blocks and random weights is written in shards, and read in a fresh process
for each row. The most memory that the process ever had, less what it had before, is compared with the target: what the
weights take in the end times 1.15, and one shard. Against the loader of diffusers, with the same packing afterwards.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path

import setting
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from simpletuner.models.family import Compute, Weights
from simpletuner.models.flux.loading import load_transformer
from simpletuner.models.kept import Kept
from simpletuner.models.kept import recipe as packed_recipe
from simpletuner.models.precision import PRECISIONS, recipe

BF16 = Compute(torch.device("cpu"), torch.bfloat16)


def main() -> None:
    """Print peak memory and time for each precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--double", type=int, default=2, help="double blocks")
    parser.add_argument("--single", type=int, default=5, help="single blocks")
    parser.add_argument("--heads", type=int, default=24, help="heads of 128; 24 are FLUX.1")
    parser.add_argument("--shard", type=float, default=1.0, help="size of a shard in GB")
    parser.add_argument("--precisions", nargs="+", default=["no_change", "int8-quanto", "int4-quanto", "nf4-bnb"])
    options = parser.parse_args()
    setting.print_setting()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shard = write(folder / "model" / "transformer", options)
        rows = [row for name in options.precisions for row in measured(folder, name, shard)]
    setting.print_table(("precision", "by", "weights", "most memory", "of the target", "time", "processor"), rows)


def write(folder: Path, options: argparse.Namespace) -> float:
    """Write random shards; returns the size of the largest in GB."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(
            num_layers=options.double,
            num_single_layers=options.single,
            num_attention_heads=options.heads,
            guidance_embeds=True,
        )
    model.save_config(folder)
    places, sizes = {}, []
    for number, names in enumerate(shards(model, options.shard * 1e9)):
        file = f"diffusion_pytorch_model-{number:05}.safetensors"
        shapes = {name: model.state_dict()[name].shape for name in names}
        save_file(
            {name: torch.randn(shape, dtype=torch.bfloat16) * 0.02 for name, shape in shapes.items()}, folder / file
        )
        places |= dict.fromkeys(names, file)
        sizes.append((folder / file).stat().st_size / 1e9)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    weights = sum(one.numel() for one in model.parameters())
    print(f"{weights / 1e9:.2f} billion weights in {len(sizes)} shards, the largest of {max(sizes):.2f} GB\n")
    return max(sizes)


def shards(model: FluxTransformer2DModel, limit: float) -> Iterator[list[str]]:
    """Names of weights that go together."""
    names: list[str] = []
    size = 0
    for name, one in model.state_dict().items():
        if names and size + 2 * one.numel() > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += 2 * one.numel()
    yield names


def measured(folder: Path, precision: str, shard: float) -> Iterator[list[str]]:
    """One row for each way to load."""
    for way in WAYS:
        if precision == "no_change" and WAYS[way] is keeping:
            continue
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            took, peak, final = pool.apply(work, (way, folder, precision))
        target = 1.15 * final + shard
        yield [
            precision,
            way,
            f"{final:.2f} GB",
            f"{peak:.2f} GB",
            f"{peak / target:.2f}",
            f"{took.wall:.1f} s",
            f"{took.cpu:.1f} s",
        ]


def work(way: str, folder: Path, precision: str) -> tuple[setting.Time, float, float]:
    """Load once; time, the most memory it took, and what the weights take, in GB."""
    torch.ones(8, 8, dtype=torch.bfloat16) @ torch.ones(8, 8, dtype=torch.bfloat16)
    before = memory("VmRSS")
    with setting.stopwatch() as elapsed:
        model = WAYS[way](folder, precision)
        for weight in model.state_dict().values():
            # A mapped file is not in memory before it is looked at: look at each page.
            weight.flatten().view(torch.uint8)[::4096].sum()
        took = elapsed()
    final = sum(one.numel() * one.element_size() for one in model.state_dict().values()) / 1e9
    return took, memory("VmHWM") - before, final


def memory(name: str) -> float:
    """Of this process, in GB."""
    return setting.memory(name) / 1e9


def streamed(folder: Path, precision: str) -> torch.nn.Module:
    """Block by block."""
    return load_transformer(weights(folder), BF16, None if precision == "no_change" else packing(precision))


def keeping(folder: Path, precision: str) -> torch.nn.Module:
    """Block by block and then written down, or as it was packed before."""
    place = Kept(folder, packed_recipe(weights(folder), BF16, recipe(precision)), packing(precision))
    return load_transformer(weights(folder), BF16, packing(precision), place)


def stock(folder: Path, precision: str) -> torch.nn.Module:
    """Whole, and then packed."""
    model = FluxTransformer2DModel.from_pretrained(folder / "model", subfolder="transformer", dtype=torch.bfloat16)
    PRECISIONS[precision](model, [*model.transformer_blocks, *model.single_transformer_blocks])
    return model


def packing(precision: str):
    return lambda block: PRECISIONS[precision](block, [block])


def weights(folder: Path) -> Weights:
    place = str(folder / "model")
    return Weights(base=place, transformer=place, transformer_subfolder="transformer", vae=place)


WAYS = {
    "diffusers": stock,
    "SimpleTuner": streamed,
    "SimpleTuner, keeping it": keeping,
    "SimpleTuner, the next time": keeping,
}


if __name__ == "__main__":
    main()
