"""How long is a step of a LoRA on FLUX.1 itself, and how much memory does it take, in each precision and mode?

The network has FLUX.1's shape and random weights, made on the device block by block: nothing is downloaded. The share
is what the step computes, without what checkpointing computes again, against the device's own rate of matrix products.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import setting
import torch
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from simpletuner.models import checkpointing, compiling, offload
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.flux.denoiser import FluxDenoiser
from simpletuner.models.offload import BlockSwap, Groups, Offload
from simpletuner.models.precision import PRECISIONS
from simpletuner.models.tread import Route, TokenRouter
from simpletuner.training import optimizers

SHAPES: Mapping[str, Mapping[str, object]] = {
    "flux": {"guidance_embeds": True},
    "tiny": {
        "guidance_embeds": True,
        "num_layers": 3,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (8, 12, 12),
    },
}
TEXT = {"flux": 512, "tiny": 16}


@dataclass(frozen=True)
class Case:
    """One way to train."""

    precision: str = "no_change"
    checkpointing: bool = False
    compiler: bool = False
    ratio: float = 0.0
    """The share of the image's tokens that skips blocks 2 to -2."""
    offload: Offload | None = None


def cases(swapped: int, *, has_card: bool) -> dict[str, Case]:
    """Every way that is measured, by name."""
    plain = {
        "bf16": Case(),
        "bf16, compiled": Case(compiler=True),
        **{name: Case(name) for name in ("int8-quanto", "int8-matmul", "int4-quanto", "nf4-bnb", "int2-quanto")},
        "TREAD 0.5": Case(ratio=0.5),
    }
    twice = {
        f"{name}, checkpointing": Case(one.precision, checkpointing=True, compiler=one.compiler, ratio=one.ratio)
        for name, one in plain.items()
    }
    moved = {
        "group offload, stream": Case(checkpointing=True, offload=Groups(is_overlapped=has_card)),
        f"block swap {swapped}": Case(checkpointing=True, offload=BlockSwap(swapped)),
        f"int8-quanto, block swap {swapped}": Case("int8-quanto", checkpointing=True, offload=BlockSwap(swapped)),
    }
    return {**plain, **twice, **moved}


def main() -> None:
    """Print a row for each way, size and number of pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="flux", help="the network; tiny is to try the script")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024], help="edges of square pictures")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of the ways to measure")
    parser.add_argument("--steps", type=int, default=8, help="steps that count")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--swapped", type=int, help="blocks to swap; 18, and 2 for the tiny network")
    options = parser.parse_args()
    setting.print_setting()
    device = torch.device(options.device)
    rate = matmul_rate(device)
    print(f"{_name(device)}: {rate / 1e12:.3g} TFLOP/s in products of bf16 matrices\n")
    swapped = options.swapped or {"flux": 18, "tiny": 2}[options.shape]
    offered = cases(swapped, has_card=device.type == "cuda")
    chosen = {name: case for name, case in offered.items() if any(part in name for part in options.only)}
    rows = [row for name, case in chosen.items() for row in _rows(name, case, options, device, rate)]
    setting.print_table(("way", "pixels", "batch", "a step", "steps a second", "memory", "of the rate"), rows)


def _rows(
    name: str, case: Case, options: argparse.Namespace, device: torch.device, rate: float
) -> Iterator[Sequence[str]]:
    """One way at every size; the network is made once."""
    sizes = list(itertools.product(options.resolutions, options.batch_sizes))
    try:
        bench = Bench.made(case, options.shape, device)
    except torch.OutOfMemoryError:
        yield from ([name, str(pixels), str(batch), "does not fit", "", "", ""] for pixels, batch in sizes)
        return
    for pixels, batch in sizes:
        yield [name, str(pixels), str(batch), *_measured(bench, pixels, batch, options, rate)]
        _clean(device)
    del bench
    torch.compiler.reset()
    _clean(device)


def _measured(bench: Bench, pixels: int, batch: int, options: argparse.Namespace, rate: float) -> Sequence[str]:
    device, work = bench.device, flops(bench.case.ratio, options.shape, pixels, batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        seconds = timed(lambda: bench.step(pixels, batch), options.warm_up, options.steps, device)
    except torch.OutOfMemoryError:
        return ["does not fit", "", "", ""]
    peak = f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB" if device.type == "cuda" else "-"
    return [setting.milliseconds(seconds), f"{1 / seconds:.2f}", peak, f"{work / seconds / rate:.0%}"]


@dataclass(frozen=True)
class Bench:
    """A network with its adapter and optimizer, ready to step."""

    case: Case
    denoiser: FluxDenoiser
    router: TokenRouter
    optimizer: torch.optim.Optimizer
    parameters: list[torch.nn.Parameter]
    device: torch.device

    @staticmethod
    def made(case: Case, shape: str, device: torch.device) -> Bench:
        """Everything in the order in which a run does it."""
        home = device if case.offload is None else torch.device("cpu")
        denoiser = random_flux(shape, case.precision, device, home)
        router = _prepared(denoiser, case, "inductor" if device.type == "cuda" else "eager")
        if case.offload is not None:
            smallest = offload.SMALLEST if shape == "flux" else 0
            offload.attach(denoiser.module, denoiser.blocks, case.offload, device, smallest=smallest)
        parameters = [one for one in denoiser.module.parameters() if one.requires_grad]
        optimizer = optimizers.build("adamw_bf16", parameters, optimizers.Settings(1e-4))
        return Bench(case, denoiser, router, optimizer, parameters, device)

    def step(self, pixels: int, batch: int) -> None:
        """One step with everything that belongs to it, on numbers drawn on the device."""
        with self.router.step(lambda: torch.Generator().manual_seed(1)):
            loss = _loss(self.denoiser, pixels, batch, self.device)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 2.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _prepared(denoiser: FluxDenoiser, case: Case, compiler: str) -> TokenRouter:
    plan = LoraPlan(tuple(PRESETS["all+ffs"]), rank=16, alpha=16)
    lora.attach(denoiser.module, plan, torch.bfloat16, seed=1)
    denoiser.module.train()
    if case.compiler:
        compiling.enable(denoiser.blocks, compiling.Compilation(compiler))
    if case.checkpointing:
        checkpointing.enable(denoiser.blocks, checkpointing.Recompute())
    return TokenRouter(denoiser.blocks, [Route(2, -2, case.ratio)] if case.ratio else [])


def random_flux(shape: str, precision: str, device: torch.device, home: torch.device) -> FluxDenoiser:
    """A frozen network with random weights in bf16, each block packed as soon as it is made, and then sent home."""
    with torch.device("meta"):
        module = FluxTransformer2DModel(**SHAPES[shape]).to(torch.bfloat16).requires_grad_(False)
    denoiser = FluxDenoiser(module)
    for block in denoiser.blocks:
        _fill(block, device)
        PRECISIONS[precision](block, [block])
        block.to(home)
    for name, part in module.named_children():
        if not name.endswith("transformer_blocks"):
            _fill(part, device)
    return denoiser


def _fill(module: torch.nn.Module, device: torch.device) -> None:
    module.to_empty(device=device)
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if isinstance(part, torch.nn.RMSNorm):
                parameter.data.fill_(1)
            else:
                parameter.data.normal_(std=1 / math.sqrt(parameter.shape[-1]))


def _loss(denoiser: FluxDenoiser, pixels: int, batch: int, device: torch.device) -> torch.Tensor:
    config = denoiser.module.config
    text = TEXT["flux"] if config.joint_attention_dim > 64 else TEXT["tiny"]
    draw = {"dtype": torch.bfloat16, "device": device}
    image, noise = (torch.randn(batch, 16, pixels // 8, pixels // 8, **draw) for _ in range(2))
    sigma = torch.sigmoid(torch.randn(batch, device=device))
    share = sigma.view(-1, 1, 1, 1).bfloat16()
    conditioning = {
        "prompt_embeds": torch.randn(batch, text, config.joint_attention_dim, **draw),
        "pooled_prompt_embeds": torch.randn(batch, config.pooled_projection_dim, **draw),
    }
    noisy = (1 - share) * image + share * noise
    # On the device without memory there is nothing to mix precisions of.
    mixing = nullcontext() if device.type == "meta" else torch.autocast(device.type, dtype=torch.bfloat16)
    with mixing:
        answer = denoiser.predict(noisy, sigma, conditioning, torch.ones(batch, device=device))
    return (answer.float() - (noise - image).float()).square().mean()


@cache
def flops(ratio: float, shape: str, pixels: int, batch: int) -> float:
    """What a step must compute, forward and backward, counted on a network without memory."""
    meta = torch.device("meta")
    with meta:
        module = FluxTransformer2DModel(**SHAPES[shape]).to(torch.bfloat16).requires_grad_(False)
    denoiser = FluxDenoiser(module)
    router = _prepared(denoiser, Case(ratio=ratio), "eager")
    counter = FlopCounterMode(display=False)
    with counter, router.step(lambda: torch.Generator().manual_seed(1)):
        _loss(denoiser, pixels, batch, meta).backward()
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device) -> float:
    """Operations a second in a product of large bf16 matrices."""
    edge = 8192 if device.type == "cuda" else 512
    one, other = (torch.randn(edge, edge, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * edge**3 / timed(lambda: one @ other, 3, 20, device)


def timed(work: Callable[[], object], warm_up: int, count: int, device: torch.device) -> float:
    """Seconds of one repetition, of many after each other."""
    for _ in range(warm_up):
        work()
    _wait(device)
    start = time.perf_counter()
    for _ in range(count):
        work()
    _wait(device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _clean(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"


if __name__ == "__main__":
    main()
