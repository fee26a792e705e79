"""A ControlNet beside a frozen FLUX.1: it looks at a picture, and adds what it finds to what the blocks compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models.controlling import DOUBLE_BLOCKS, SINGLE_BLOCKS
from simpletuner.models.family import Weights
from simpletuner.models.flux.arithmetic import forward_work, prompt_tokens
from simpletuner.models.flux.denoiser import FluxDenoiser, pack
from simpletuner.models.flux.loading import block_names, empty, in_folder, transformer_pieces
from simpletuner.models.references import references, without_references
from simpletuner.models.sources import is_folder, loading, local_config, part_folder
from simpletuner.models.streaming import Piece, check, fill
from simpletuner.models.weight_files import Entry

if TYPE_CHECKING:
    import torch
    from diffusers import FluxControlNetModel
    from torch import Tensor, nn

    from simpletuner.models.controlling import ControlNet
    from simpletuner.models.family import Compute, Conditioning
    from simpletuner.models.flux.loading import Found
    from simpletuner.models.streaming import Pack, Pieces

PART = "controlnet"


@dataclass
class _Switch:
    """Whether the ControlNet is listened to."""

    is_on: bool = True


@dataclass(frozen=True)
class ControlledDenoiser:
    """A frozen denoiser and the ControlNet that steers it, both stock diffusers networks."""

    base: FluxDenoiser
    control: FluxControlNetModel
    module: nn.Module
    """Both together."""
    switch: _Switch = field(default_factory=_Switch)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Those of the base: their numbers mean what they mean without a ControlNet."""
        return self.base.blocks

    @property
    def control_blocks(self) -> Sequence[nn.Module]:
        """The blocks of the ControlNet."""
        return [*self.control.transformer_blocks, *self.control.single_transformer_blocks]

    @property
    def uses_guidance(self) -> bool:
        """Whether one of the two takes a guidance value."""
        return self.base.uses_guidance or bool(self.control.config.guidance_embeds)

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning, guidance: Tensor | None) -> Tensor:
        """Predict noise minus image; the first reference is the picture to follow, as large as the image."""
        told = guidance if self.base.uses_guidance else None
        given = self.base.given(noisy, sigma, without_references(conditioning), told)
        if not self.switch.is_on:
            return self.base.answer(noisy, given)
        picture = references(conditioning)[0].to(noisy.dtype)
        plain = {name: value for name, value in given.items() if name != "joint_attention_kwargs"}
        plain["guidance"] = guidance if self.control.config.guidance_embeds else None
        double, single = self.control(**plain, controlnet_cond=pack(picture), return_dict=False)
        found = {"controlnet_block_samples": double, "controlnet_single_block_samples": single}
        return self.base.answer(noisy, {**given, **found})

    def work(self, height: int, width: int, conditioning: Conditioning) -> float:
        """Floating point operations in one forward pass of one sample, of both networks."""
        beside = forward_work(self.control, height * width // 4, prompt_tokens(conditioning))
        return self.base.work(height, width, without_references(conditioning)) + beside

    @contextmanager
    def uncontrolled(self) -> Iterator[None]:
        """A moment in which nothing is heard of the ControlNet."""
        self.switch.is_on = False
        try:
            yield
        finally:
            self.switch.is_on = True


def beside(base: FluxDenoiser, control: FluxControlNetModel) -> ControlledDenoiser:
    """A denoiser steered by a ControlNet."""
    from torch import nn

    return ControlledDenoiser(base, control, nn.ModuleDict({"transformer": base.module, PART: control}))


def load(weights: Weights, plan: ControlNet, compute: Compute, block: Pack | None = None) -> FluxControlNetModel:
    """A ControlNet with its weights, frozen and on the CPU: one to go on from, or the first blocks of the transformer.

    Args:
        weights: Where the transformer is.
        plan: Which ControlNet.
        compute: The precision of its weights.
        block: Packs a block in place; nothing is packed without it.

    Raises:
        ModelError: The weights are not there, or are not those of a ControlNet of FLUX.1.
    """
    option = "controlnet_model_name_or_path" if plan.source else "pretrained_model_name_or_path"
    with loading("The ControlNet", plan.source or weights.transformer, option=option):
        config, found = _of_its_own(plan.source) if plan.source else _of_transformer(weights, plan)
        module = _without_weights(config)
        pieces = found if plan.source else _start(module, found)
        check(module, pieces)
        fill(module, pieces, compute.dtype, blocks=block_names(module), pack=block)
    return module.eval()


def outline(transformer: Mapping[str, Any], plan: ControlNet) -> FluxControlNetModel | None:
    """A ControlNet without weights, where its config is on this machine.

    Args:
        transformer: The config of the transformer, which a new ControlNet takes after; empty if it is not known.
        plan: Which ControlNet.
    """
    if plan.source is not None:
        config = local_config(plan.source, _place_in(plan.source), None)
    else:
        config = _shape(transformer, plan) if transformer else {}
    return _without_weights(config) if config else None


def _without_weights(config: Mapping[str, Any]) -> FluxControlNetModel:
    from diffusers import FluxControlNetModel

    with empty():
        module: FluxControlNetModel = FluxControlNetModel.from_config(dict(config))
    return module


def _of_its_own(source: str) -> Found:
    config, found = in_folder(source, _place_in(source), Weights(source, source, "", source))
    for option, kind in _OTHERS.items():
        if config.get(option) is not None:
            raise ModelError(f"it is for {kind}, and so cannot be trained here. Use another one, or start a new one.")
    return config, found


def _place_in(source: str) -> str:
    """The folder inside a source: published ControlNets lie at the top of their repository, those of runs do not."""
    is_at_top = not is_folder(source) and (part_folder(source, "") / "config.json").is_file()
    return "" if is_at_top else PART


_OTHERS = {"num_mode": "several kinds of pictures", "conditioning_embedding_channels": "pixels instead of latents"}
"""Settings of ControlNets that take something else than one picture as latents."""


def _of_transformer(weights: Weights, plan: ControlNet) -> Found:
    """The shape of a new ControlNet, and the weights of the transformer that it begins with."""
    config, found = transformer_pieces(weights)
    return _shape(config, plan), found


def _shape(config: Mapping[str, Any], plan: ControlNet) -> dict[str, Any]:
    """The config of a new ControlNet for a transformer with this one."""
    asked = {"num_layers": plan.double_blocks, "num_single_layers": plan.single_blocks}
    for option, usual in (("num_layers", DOUBLE_BLOCKS), ("num_single_layers", SINGLE_BLOCKS)):
        there, wanted = config[option], asked[option]
        if wanted is not None and wanted > there:
            raise ModelError(
                f"controlnet_custom_config: {option} is {wanted}, but the transformer has {there}; lower it."
            )
        asked[option] = min(usual, there) if wanted is None else wanted
    shape = {name: config[name] for name in _SHAPE if name in config}
    return {**shape, **asked}


_SHAPE = (
    *("patch_size", "in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim"),
    *("pooled_projection_dim", "guidance_embeds", "axes_dims_rope"),
)


def _start(module: nn.Module, found: Pieces) -> Pieces:
    """Zero for every weight that the transformer has none for: at first, nothing is added to what it computes."""
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    return {name: Zeros.of(shape) if name.startswith(NEW) else found[name] for name, shape in wanted.items()}


NEW = "controlnet_"
"""How the names of the layers begin that only a ControlNet has."""


@dataclass(frozen=True)
class Zeros(Piece):
    """A weight that is in no file."""

    @staticmethod
    def of(shape: tuple[int, ...]) -> Zeros:
        """One of this shape."""
        return Zeros(Entry(Path(), "F32", shape, 0, 0))

    def read(self, dtype: torch.dtype) -> Tensor:
        """Nothing but zeros."""
        import torch

        return torch.zeros(self.shape, dtype=dtype)
