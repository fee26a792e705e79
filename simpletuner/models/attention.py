"""Which code computes attention: the names that users know, and what each of them can do. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.schema import Choice

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Backend:
    """One way to compute attention."""

    meaning: str
    name: str = "native"
    """What diffusers calls it."""
    trains: bool = True
    """Whether gradients go through it; else it is used in validation, and training has PyTorch's own."""
    needs_card: bool = False
    takes_masks: bool = True
    """Whether tokens can be hidden from it."""

    @property
    def may_be_missing(self) -> bool:
        """Whether it is not PyTorch's own choice, which is always there."""
        return self.needs_card or self.name != "native"

    def __post_init__(self) -> None:
        """The meaning is what help and documentation show."""
        object.__setattr__(self, "__doc__", self.meaning)


def _flash(meaning: str, name: str, *, trains: bool = True) -> Backend:
    return Backend(meaning, name, trains=trains, needs_card=True, takes_masks=False)


def _sage(meaning: str, name: str) -> Backend:
    return Backend(meaning, name, trains=False, needs_card=True, takes_masks=False)


_DEFAULT = "use diffusers, which picks the fastest kernel that PyTorch has"

ATTENTIONS: Choice[Backend] = Choice(
    "attention mechanism",
    {
        "diffusers": Backend("The attention of PyTorch, which picks the fastest kernel of the card."),
        "native": Backend("Another name of diffusers."),
        "sdpa": Backend("Another name of diffusers, as other programs call it."),
        "native-efficient": Backend("PyTorch's kernel that needs little memory.", "_native_efficient", needs_card=True),
        "native-flash": Backend("PyTorch's flash attention.", "_native_flash", needs_card=True, takes_masks=False),
        "native-math": Backend("Plain arithmetic, the slowest and the most exact.", "_native_math"),
        "cudnn": Backend("The kernel of cuDNN: fast on recent cards.", "_native_cudnn", needs_card=True),
        "flex": Backend("PyTorch's flexible attention, which compiles itself.", "flex", needs_card=True),
        "xformers": Backend("The kernel of the package xformers.", "xformers", needs_card=True),
        "flash-attn": _flash("The kernel of the package flash-attn.", "flash"),
        "flash-attn-2": _flash("Another name of flash-attn.", "flash"),
        "flash-attn-hub": _flash("The same kernel, fetched from the Hub by the package kernels.", "flash_hub"),
        "flash-attn-varlen-hub": _flash("The same for texts of many lengths.", "flash_varlen_hub"),
        "flash-attn-3": _flash("Flash attention 3; only validation uses it.", "_flash_3", trains=False),
        "flash-attn-3-hub": _flash("Flash attention 3 for Hopper cards, fetched from the Hub.", "_flash_3_hub"),
        "flash-attn-3-varlen": _flash("The same for texts of many lengths.", "_flash_varlen_3"),
        "flash-attn-3-varlen-hub": _flash("The same, fetched from the Hub.", "_flash_3_varlen_hub"),
        "flash-attn-4-hub": _flash(
            "Flash attention 4, fetched from the Hub; only validation uses it.", "flash_4_hub", trains=False
        ),
        "sageattention": _sage("SageAttention, in 8 bits; only validation uses it.", "sage"),
        "sageattention-int8-fp16-triton": _sage(
            "SageAttention with kernels of Triton; only validation uses it.", "_sage_qk_int8_pv_fp16_triton"
        ),
        "sageattention-int8-fp16-cuda": _sage(
            "SageAttention with 16-bit values; only validation uses it.", "_sage_qk_int8_pv_fp16_cuda"
        ),
        "sageattention-int8-fp8-cuda": _sage(
            "SageAttention with 8-bit values; only validation uses it.", "_sage_qk_int8_pv_fp8_cuda"
        ),
    },
    later={
        **dict.fromkeys(("native-npu", "native-xla", "sla"), _DEFAULT),
        **dict.fromkeys(
            ("metal-flash-attention", "metal-flash-attention-int8", "metal-flash-attention-int4"), _DEFAULT
        ),
    },
)


def use(module: nn.Module, chosen: str, device: torch.device) -> None:
    """Compute attention in the chosen way; in training only if gradients can go through it.

    Args:
        module: A diffusers model.
        chosen: A name of `ATTENTIONS`.
        device: Where the model computes.

    Raises:
        ModelError: The kernel's package is missing, or the device has no such kernel.
    """
    backend = ATTENTIONS[chosen]
    if said := missing(chosen, device):
        raise ModelError(f"attention_mechanism {said}.")
    if backend.trains:
        _set(module, backend.name)
    else:
        _set(module, "native")
        module.register_forward_pre_hook(_Switch(backend.name))


@dataclass
class _Switch:
    """Training computes with PyTorch's own attention, everything else with another."""

    validating: str
    was_training: bool = True

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if module.training != self.was_training:
            _set(module, "native" if module.training else self.validating)
            self.was_training = module.training


def _set(module: nn.Module, name: str) -> None:
    """Set it on this model alone: diffusers' own way would change the image encoder's attention too."""
    from diffusers.models.attention import AttentionModuleMixin

    for part in module.modules():
        if isinstance(part, AttentionModuleMixin):
            part.set_attention_backend(name)


def missing(chosen: str, device: torch.device) -> str | None:
    """Why attention cannot be computed in the chosen way, if so; a kernel on the Hub is fetched."""
    backend = ATTENTIONS[chosen]
    if not backend.may_be_missing:
        return None
    if backend.needs_card and device.type != "cuda":
        return f"'{chosen}' needs a CUDA or ROCm card, and this run is on {device.type}; {_DEFAULT}"
    return _not_there(chosen, backend)


def _not_there(chosen: str, backend: Backend) -> str | None:
    # Private, but the public way is the one that changes every model of the process.
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        _check_attention_backend_requirements,
        _maybe_download_kernel_for_backend,
    )

    try:
        _check_attention_backend_requirements(AttentionBackendName(backend.name))
        _maybe_download_kernel_for_backend(AttentionBackendName(backend.name))
    except (RuntimeError, ImportError, OSError) as error:
        return f"'{chosen}' cannot be used here: {error} Or {_DEFAULT}"
    return None
