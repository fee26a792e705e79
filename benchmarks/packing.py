"""Is a packed layer of ours better than optimum-quanto's?

Asked of what it loses (on the trained model that comes along), of its speed (two linear layers with 512 tokens,
forward, and forward with the way back) and of what can be done with it. Against optimum-quanto with the same bits, and
against weights that are not packed. On the processor, or with --device cuda on a card.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import setting
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from simpletuner.demo import MODEL
from simpletuner.models.flux.denoiser import FluxDenoiser
from simpletuner.models.precision import PRECISIONS, packable

PAIRS = {"int8-quanto": "qint8", "fp8-quanto": "qfloat8", "int4-quanto": "qint4", "int2-quanto": "qint2"}
ALONE = ("nf4-bnb", "int8-matmul", "fp8-native")

Pack = Callable[[nn.Module, list[nn.Module]], None]


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    setting.print_setting()
    setting.print_table(("what is lost", "of the output", "of the weights"), [_lost(*one) for one in _works().items()])
    print()
    setting.print_table(("two layers", "forward", "and back", "bits a weight"), _speed(given))
    print()
    rows = [[name, *_chores(pack)] for name, pack in _works().items() if name != "not packed"]
    setting.print_table(("what can be done", "copy", "other precision", "group offload"), rows)


def _works() -> dict[str, Pack]:
    """Ours and quanto's, by name, in pairs."""
    found: dict[str, Pack] = {"not packed": PRECISIONS["no_change"]}
    for ours, theirs in PAIRS.items():
        found |= {ours: PRECISIONS[ours], f"quanto's {theirs}": _quanto(theirs)}
    return found | {name: PRECISIONS[name] for name in ALONE}


def _quanto(kind: str) -> Pack:
    """What optimum-quanto does to the same layers."""

    def pack(module: nn.Module, blocks: list[nn.Module]) -> None:
        from optimum import quanto

        quanto.quantize(module, weights=getattr(quanto, kind), include=[name for name, _ in packable(module, blocks)])
        quanto.freeze(module)

    return pack


@torch.no_grad()
def _lost(name: str, pack: Pack) -> list[str]:
    """How far the trained model is from what it was."""
    plain, packed = _trained(), _trained()
    names = [layer for layer, _ in packable(plain.module, plain.blocks)]
    pack(packed.module, list(packed.blocks))
    before, after = (_answer(one) for one in (plain, packed))
    wanted = torch.cat([plain.module.get_submodule(layer).weight.flatten() for layer in names])
    found = torch.cat([_whole(packed.module.get_submodule(layer).weight).flatten() for layer in names])
    return [name, f"{_share(after, before):.4f}", f"{_share(found, wanted):.4f}"]


def _trained() -> FluxDenoiser:
    return FluxDenoiser(FluxTransformer2DModel.from_pretrained(MODEL, subfolder="transformer", dtype=torch.float32))


def _answer(denoiser: FluxDenoiser) -> torch.Tensor:
    random, config = torch.Generator().manual_seed(0), denoiser.module.config
    conditioning = {
        "prompt_embeds": torch.randn(4, 16, config.joint_attention_dim, generator=random),
        "pooled_prompt_embeds": torch.randn(4, config.pooled_projection_dim, generator=random),
    }
    noisy, sigma = torch.randn(4, 16, 16, 16, generator=random), torch.rand(4, generator=random)
    return denoiser.predict(noisy, sigma, conditioning, torch.ones(4))


def _whole(weight: torch.Tensor) -> torch.Tensor:
    return weight.dequantize() if hasattr(weight, "dequantize") and type(weight) is not torch.Tensor else weight


def _share(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.detach() - wanted.detach()).norm() / wanted.detach().norm())


def _speed(given: argparse.Namespace) -> list[list[str]]:
    """Seconds on the clock, each work in its turn."""
    dtype, device = getattr(torch, given.dtype), torch.device(given.device)
    input = torch.randn(512, given.width, device=device, dtype=dtype)
    nets = {name: _two_layers(pack, given.width, dtype).to(device) for name, pack in _works().items()}
    forward = {name: _forward(net, input) for name, net in nets.items()}
    back = {name: _back(net, input) for name, net in nets.items()}
    first, second = (setting.taking_turns(works, given.repeats) for works in (forward, back))
    return [
        [name, *(setting.milliseconds(setting.median(times[name]).wall) for times in (first, second)), _bits(net)]
        for name, net in nets.items()
    ]


def _two_layers(pack: Pack, width: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)).to(dtype)
    made.requires_grad_(False)
    pack(made, [made])
    return made


def _forward(net: nn.Module, input: torch.Tensor) -> Callable[[], setting.Time]:
    @torch.no_grad()
    def work() -> None:
        net(input)
        _wait(input)

    return lambda: setting.timed(work)


def _back(net: nn.Module, input: torch.Tensor) -> Callable[[], setting.Time]:
    def work() -> None:
        net(input.clone().requires_grad_()).sum().backward()
        _wait(input)

    return lambda: setting.timed(work)


def _wait(input: torch.Tensor) -> None:
    if input.device.type == "cuda":
        torch.cuda.synchronize()


def _bits(net: nn.Module) -> str:
    """Of everything that the layers hold, for each weight of the two layers."""
    held = {id(one): one for one in _tensors(net)}
    weights = sum(layer.in_features * layer.out_features for layer in (net[0], net[2]))
    return f"{8 * sum(one.numel() * one.element_size() for one in held.values()) / weights:.2f}"


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    """The plain tensors inside, also of those that consist of others."""
    found = []
    for one in (*net.parameters(), *net.buffers()):
        inner = one.__tensor_flatten__()[0] if hasattr(one, "__tensor_flatten__") else []
        found += [part for name in inner for part in _parts(getattr(one, name))] or [one]
    return found


def _parts(one: torch.Tensor) -> list[torch.Tensor]:
    inner = one.__tensor_flatten__()[0] if hasattr(one, "__tensor_flatten__") else []
    return [part for name in inner for part in _parts(getattr(one, name))] or [one]


def _chores(pack: Pack) -> list[str]:
    """Whether the things work that a trainer has to do."""
    return [_works_or_not(pack, chore) for chore in (copy.deepcopy, _other_precision, _offload)]


def _works_or_not(pack: Pack, chore: Callable[[nn.Module], object]) -> str:
    net = _two_layers(pack, 64, torch.float32)
    try:
        chore(net)
    except Exception as error:  # noqa: BLE001  # whatever a library raises is the answer
        return type(error).__name__
    return "yes"


def _other_precision(net: nn.Module) -> None:
    net.to(torch.bfloat16)(torch.randn(3, 64, dtype=torch.bfloat16))


def _offload(net: nn.Module) -> None:
    """As diffusers does it, here from main memory to main memory."""
    from diffusers.hooks import apply_group_offloading

    device = torch.device("cpu")
    apply_group_offloading(net, onload_device=device, offload_device=device, offload_type="leaf_level")
    net(torch.randn(3, 64))


if __name__ == "__main__":
    main()
