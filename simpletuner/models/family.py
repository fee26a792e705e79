"""What the rest of the project may know of a model family: three things to open, and a few facts.

Everything that is true of one family only lives in that family's folder. Trainer, caches, token routing and
adapters talk to these protocols. Conditioning is opaque here: named tensors that only the family reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from simpletuner.errors import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from simpletuner.models.controlling import ControlNet
    from simpletuner.models.kept import Kept
    from simpletuner.models.offload import Offload
    from simpletuner.models.streaming import Pack

    Conditioning = Mapping[str, Tensor]


@dataclass(frozen=True)
class Compute:
    """Where a model runs, and in which precision."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Sources:
    """What a config says of where the parts of a model come from: a flavour, or a Hub id, folder or file each."""

    flavour: str | None = None
    base: str | None = None
    """Of every part that has no place of its own."""
    transformer: str | None = None
    transformer_subfolder: str = "transformer"
    vae: str | None = None
    clip: str | None = None
    t5: str | None = None
    revision: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class Weights:
    """Where the parts of a model come from: a Hub id, a folder or a single file each."""

    base: str
    transformer: str
    transformer_subfolder: str
    vae: str
    revision: str | None = None
    variant: str | None = None
    flavour: str | None = None
    clip: str | None = None
    """The text encoder CLIP, where it does not come from the base."""
    t5: str | None = None
    """The text encoder T5, where it does not come from the base."""


@dataclass(frozen=True)
class TextSettings:
    """How prompts are encoded."""

    precisions: tuple[str, str]
    """Of both text encoders."""
    max_length: int | None
    """How many tokens of a prompt count; what the model says unless given."""
    padding: str
    """What stands behind the end of a prompt: unmodified or zero."""
    pack_via: str = "cpu"
    """Where weights are packed: a word of `quantize_via`."""
    offload: Offload | None = None
    """How weights are kept off the device, if they are."""


@dataclass(frozen=True)
class Posterior:
    """What the image encoder says of a batch: mean and standard deviation with shape (batch, channels, height, width).

    Both are already shifted and scaled to the space the denoiser works in.
    """

    mean: Tensor
    std: Tensor


class LatentCodec(Protocol):
    """Pixels to latents and back."""

    def encode(self, pixels: Tensor) -> Posterior:
        """Encode pixels in -1..1 with shape (batch, 3, height, width)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to pixels in -1..1 with shape (batch, 3, height, width)."""


TextEncoder = Callable[[Sequence[str]], "Sequence[Conditioning]"]
"""Encodes prompts; the tensors of each have no batch axis."""


class Denoiser(Protocol):
    """Turns noise into a prediction."""

    @property
    def module(self) -> nn.Module:
        """The network itself."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its blocks in the order in which they run."""

    @property
    def uses_guidance(self) -> bool:
        """Whether the network takes a guidance value as an input."""

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning, guidance: Tensor | None) -> Tensor:
        """Predict the velocity, noise minus image.

        Args:
            noisy: Noisy latents with shape (batch, channels, height, width).
            sigma: Share of noise in 0..1 with shape (batch,), float32.
            conditioning: What `TextEncoder` gave, stacked along a batch axis.
            guidance: Guidance values with shape (batch,), or None for networks without that input.
        """

    def work(self, height: int, width: int, conditioning: Conditioning) -> float:
        """Floating point operations in one forward pass of one sample with latents of this height and width."""


class Controlled(Denoiser, Protocol):
    """A frozen denoiser steered by a network beside it, a ControlNet; `module` is of both, `blocks` are its own."""

    @property
    def control(self) -> nn.Module:
        """The network beside it."""

    @property
    def control_blocks(self) -> Sequence[nn.Module]:
        """The blocks of the network beside it, in the order in which they run."""

    def uncontrolled(self) -> AbstractContextManager[None]:
        """A moment in which nothing is heard of the network beside it."""


class OpenControlled(Protocol):
    """Puts a ControlNet beside a denoiser."""

    def __call__(
        self, base: Denoiser, weights: Weights, plan: ControlNet, compute: Compute, pack: Pack | None = None
    ) -> Controlled:
        """Both together.

        Args:
            base: The denoiser; its weights stay as they are.
            weights: Where its weights come from.
            plan: Which ControlNet.
            compute: Where it runs, and the precision of its weights.
            pack: Changes a block of the ControlNet in place as soon as its weights are loaded.
        """


@dataclass(frozen=True)
class SamplingSchedule:
    """Noise levels of one sampling run, from 1.0 down to the final 0.0, one more than there are steps."""

    sigmas: tuple[float, ...]


class Family(Protocol):
    """Everything that is true of a model family."""

    @property
    def name(self) -> str:
        """The value of `model_family`."""

    def weights(self, given: Sources) -> Weights:
        """Where the weights come from; a flavour stands for a repository on the Hub."""

    def missing(self, weights: Weights, *, follows: bool = False) -> Iterator[Problem]:
        """What is wrong with files and folders among the places, told from the headers; `follows` as for `denoiser`."""

    def block_counts(self, weights: Weights) -> tuple[int, ...]:
        """How many blocks of each kind the transformer has, in the order in which they run; nothing if not known."""

    def outline(self, weights: Weights, *, follows: bool = False, beside: ControlNet | None = None) -> nn.Module | None:
        """The transformer without weights, where its config is on this machine, or the ControlNet beside it.

        Args:
            weights: Where they are.
            follows: As `denoiser` takes it.
            beside: The ControlNet that is asked for instead.
        """

    def architecture(self, weights: Weights) -> str:
        """The name of the architecture in the metadata of saved adapters (modelspec)."""

    def text_recipe(self, weights: Weights, settings: TextSettings) -> str:
        """What decides the outcome of text encoding besides the text; part of every cache key."""

    def latent_recipe(self, weights: Weights) -> str:
        """What decides the outcome of image encoding besides the pixels; part of every cache key."""

    def text_encoder(
        self, weights: Weights, settings: TextSettings, compute: Compute
    ) -> AbstractContextManager[TextEncoder]:
        """The text encoders, in memory only inside the ``with``."""

    def codec(
        self, weights: Weights, compute: Compute, *, tiling: bool, slicing: bool, offload: Offload | None = None
    ) -> AbstractContextManager[LatentCodec]:
        """The image encoder and decoder, in memory only inside the ``with``."""

    def denoiser(
        self,
        weights: Weights,
        compute: Compute,
        *,
        pack: Pack | None = None,
        masks_prompt: bool = False,
        follows: bool = False,
        kept: Kept | None = None,
    ) -> Denoiser:
        """The frozen base network.

        Args:
            weights: Where it comes from.
            compute: Where it runs, and in which precision.
            pack: Changes a block in place as soon as its weights are loaded.
            masks_prompt: Whether the padding of prompts is hidden from all other tokens.
            follows: Whether it is given a picture to follow, as further channels of the image.
            kept: Where the packed network is kept for the next start.
        """

    def automatic_shift(self, height: int, width: int) -> float:
        """The noise shift that suits latents of this height and width."""

    def sampling_schedule(self, weights: Weights, steps: int, height: int, width: int) -> SamplingSchedule:
        """The noise levels with which the model is sampled at this height and width of the latents."""
