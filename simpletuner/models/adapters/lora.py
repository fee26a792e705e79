"""LoRA through PEFT: attach it to a frozen network, take its weights out, put them back, write the file others read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from simpletuner.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FILE_NAME = "pytorch_lora_weights.safetensors"
ADAPTER = "default"


@dataclass(frozen=True)
class LoraPlan:
    """What a LoRA looks like before it exists."""

    targets: tuple[str, ...]
    rank: int
    alpha: float
    dropout: float = 0.0
    init: Literal["default", "gaussian"] = "default"


def attach(module: nn.Module, plan: LoraPlan, dtype: torch.dtype, seed: int) -> None:
    """Put trainable matrices beside the targeted linear layers; the output does not change until they are trained.

    Args:
        module: A frozen network; the only trainable parameters afterwards are the adapter's.
        plan: Targets, rank and scaling.
        dtype: Precision of the trainable weights.
        seed: Fixes the random half of the start values.

    Raises:
        ModelError: No layer of the network matches the targets.
    """
    import torch
    from peft import LoraConfig

    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        lora_dropout=plan.dropout,
        init_lora_weights=True if plan.init == "default" else plan.init,
        target_modules=list(plan.targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module.add_adapter(config, adapter_name=ADAPTER)  # type: ignore[operator]  # from a mixin of diffusers models
        except ValueError as error:
            raise ModelError(
                f"no layer of the network is called {', '.join(plan.targets)}. Choose another flux_lora_target, or "
                f"name existing layers in peft_lora_target_modules."
            ) from error
    for parameter in trainable(module).values():
        parameter.data = parameter.data.to(dtype)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name, in a fixed order."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def adapter_state(module: nn.Module) -> dict[str, Tensor]:
    """The adapter's weights under PEFT's names, such as ``transformer_blocks.0.attn.to_q.lora_A.weight``."""
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(module, adapter_name=ADAPTER)
    return found


def load_adapter_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put saved weights back into an attached adapter of the same shape.

    Raises:
        CheckpointError: Names or shapes differ: the adapter was made with other options.
    """
    import torch

    own = adapter_state(module)
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())[0]
        raise CheckpointError(
            f"the saved adapter has other layers than this run's ('{odd}' is in only one of them). Use the "
            f"flux_lora_target of the saved run, or start anew with resume_from_checkpoint set to none."
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"the saved adapter has shape {tuple(state[name].shape)} at '{name}', this run {tuple(tensor.shape)}. "
                f"Use the lora_rank of the saved run, or start anew with resume_from_checkpoint set to none."
            )
        with torch.no_grad():
            tensor.copy_(state[name])


def encode_file(module: nn.Module, metadata: Mapping[str, str], *, fold_scaling: bool = False) -> bytes:
    """The adapter as a diffusers LoRA file: keys under ``transformer.``, with scaling and `metadata` in the header.

    With `fold_scaling`, alpha divided by rank is multiplied into the weights and alpha is written as the rank: the
    effect is the same, also in programs that do not read the header.
    """
    from safetensors.torch import save

    tensors = {
        f"transformer.{name}": tensor.detach().cpu().contiguous() for name, tensor in adapter_state(module).items()
    }
    settings = _settings(module)
    if fold_scaling:
        scaling = settings["lora_alpha"] / settings["r"]
        tensors = {name: one * scaling if ".lora_B." in name else one for name, one in tensors.items()}
        settings["lora_alpha"] = settings["r"]
    named = {f"transformer.{name}": value for name, value in settings.items()}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(named, sort_keys=True), **metadata}
    return _ordered(save(tensors, metadata=header))


def _ordered(encoded: bytes) -> bytes:
    """The same safetensors file with its metadata in a fixed order, so that equal runs give equal files."""
    start = 8 + int.from_bytes(encoded[:8], "little")
    header = json.loads(encoded[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # The tensors begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + encoded[start:]


def decode_file(data: bytes) -> dict[str, Tensor]:
    """The weights of a diffusers LoRA file, under PEFT's names."""
    from safetensors.torch import load

    return {name.removeprefix("transformer."): tensor for name, tensor in load(data).items()}


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a loader needs to know; more would keep other versions of PEFT from loading the file."""
    config: Any = module.peft_config[ADAPTER]  # type: ignore[index]  # a mixin of diffusers models
    return {
        "peft_type": "LORA",
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules),
        "bias": "none",
        # A loader that finds dropout here keeps it active when it draws; it is over when training is.
        "lora_dropout": 0.0,
    }


def targets(preset: Sequence[str], explicit: Sequence[str]) -> tuple[str, ...]:
    """The layers to train: those the user named, else those of the preset."""
    return tuple(explicit) or tuple(preset)
