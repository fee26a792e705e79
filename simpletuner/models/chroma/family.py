"""The facts of Chroma: repositories, licence, and how its parts are opened. Imports no torch.

Chroma was made from FLUX.1 schnell: the same autoencoder and the same tokens, without CLIP and without distillation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from simpletuner.errors import Problem
from simpletuner.models.chroma import denoiser, text
from simpletuner.models.flavours import Flavour
from simpletuner.models.flux import sampling, vae
from simpletuner.models.flux.family import Flux
from simpletuner.models.sources import fingerprint
from simpletuner.schema import Choice

if TYPE_CHECKING:
    from simpletuner.models.family import (
        Compute,
        Denoiser,
        LatentCodec,
        SamplingSchedule,
        TextEncoder,
        TextSettings,
        Weights,
    )
    from simpletuner.models.kept import Kept
    from simpletuner.models.streaming import Pack

FLAVOURS = Choice(
    "Chroma flavour",
    {
        "base": Flavour("Chroma 1 Base, the usual base for training.", "lodestones/Chroma1-Base", is_free=True),
        "hd": Flavour("Chroma 1 HD, trained on larger pictures.", "lodestones/Chroma1-HD", is_free=True),
        "flash": Flavour(
            "Chroma 1 Flash, which draws in few steps without real guidance.",
            "lodestones/Chroma1-Flash",
            defaults={"validation_guidance_real": 1.0, "validation_num_inference_steps": 8},
            is_free=True,
        ),
    },
)


class Chroma:
    """Chroma: FLUX.1 schnell without distillation, with T5 alone."""

    name = "chroma"
    alignment = 64
    flavours: Choice[Flavour] = FLAVOURS
    usual = "base"
    always_masks_prompt = True
    defaults: Mapping[str, Any] = {"validation_guidance_real": 4.0, "validation_num_inference_steps": 28}
    licence: Mapping[str, str] = {"license": "apache-2.0"}

    def licence_of(self, weights: Weights) -> Mapping[str, str]:
        """All of Chroma is free."""
        return self.licence

    def weights(
        self,
        *,
        flavour: str | None,
        base: str | None,
        transformer: str | None,
        transformer_subfolder: str,
        vae: str | None,
        revision: str | None,
        variant: str | None,
        clip: str | None = None,
        t5: str | None = None,
    ) -> Weights:
        """Where the weights come from; neither flavour nor path means Base."""
        if base is None:
            flavour = flavour or self.usual
            base = FLAVOURS[flavour].repository
        return Flux().weights(
            flavour=flavour,
            base=base,
            transformer=transformer,
            transformer_subfolder=transformer_subfolder,
            vae=vae,
            revision=revision,
            variant=variant,
            t5=t5,
        )

    def missing(self, weights: Weights) -> Iterator[Problem]:
        """Chroma comes in diffusers layout alone."""
        return iter(())

    def architecture(self, weights: Weights) -> str:
        """The modelspec name."""
        return "chroma/lora"

    def text_recipe(self, weights: Weights, settings: TextSettings) -> str:
        """Encoder and tokenizer, the precision, and the length that prompts are padded to."""
        parts = [fingerprint(weights.base, folder, weights.revision) for folder in ("text_encoder", "tokenizer")]
        how = (settings.precisions[0], str(settings.max_length))
        return "/".join(["chroma-text-1", *parts, str(weights.variant), *how])

    def latent_recipe(self, weights: Weights) -> str:
        """The autoencoder is that of FLUX.1."""
        return Flux().latent_recipe(weights)

    def text_encoder(
        self, weights: Weights, settings: TextSettings, compute: Compute
    ) -> AbstractContextManager[TextEncoder]:
        """T5, with its tokenizer."""
        return text.open_encoder(weights, settings.precisions[0], settings.max_length, compute)

    def codec(
        self, weights: Weights, compute: Compute, *, tiling: bool, slicing: bool
    ) -> AbstractContextManager[LatentCodec]:
        """The 16-channel autoencoder of FLUX.1."""
        return vae.open_codec(weights, compute, tiling=tiling, slicing=slicing)

    def denoiser(
        self,
        weights: Weights,
        compute: Compute,
        *,
        pack: Pack | None = None,
        masks_prompt: bool = True,
        kept: Kept | None = None,
    ) -> Denoiser:
        """The frozen transformer; padding is always hidden from it, whatever is asked for."""
        return denoiser.load(weights, compute, pack=pack, kept=kept)

    def automatic_shift(self, height: int, width: int) -> float:
        """That of FLUX.1."""
        return Flux().automatic_shift(height, width)

    def sampling_schedule(self, weights: Weights, steps: int, height: int, width: int) -> SamplingSchedule:
        """The noise levels of the model's own scheduler."""
        return sampling.schedule(weights, steps, height, width)
