"""The facts of FLUX.1: repositories, licences, shift, and how its parts are opened. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from simpletuner.models.flux import denoiser, sampling, text, vae
from simpletuner.models.sources import fingerprint
from simpletuner.schema import words

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

from simpletuner.models.family import Weights as _Weights

REPOSITORIES = {
    "krea": "black-forest-labs/FLUX.1-Krea-dev",
    "dev": "black-forest-labs/FLUX.1-dev",
    "schnell": "black-forest-labs/FLUX.1-schnell",
    "kontext": "black-forest-labs/FLUX.1-Kontext-dev",
    "fluxbooru": "terminusresearch/fluxbooru-v0.3",
    "libreflux": "jimmycarter/LibreFlux-SimpleTuner",
}

FLAVOURS = words(
    "FLUX flavour",
    {
        "krea": "FLUX.1 Krea, a photographic variant of dev; used when neither flavour nor path is given.",
        "dev": "FLUX.1 dev, the usual base for LoRA training.",
        "fluxbooru": "FLUX.1 without guidance distillation, trained on booru pictures; validate with real guidance.",
    },
    later={
        "schnell": "train on dev and use the LoRA with schnell",
        "kontext": "use dev with text captions only",
        "libreflux": "use dev",
    },
)


class Flux:
    """FLUX.1 in its text-to-image flavours."""

    name = "flux"
    alignment = 64
    licence: Mapping[str, str] = {
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    }

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
    ) -> Weights:
        """Where the weights come from; neither flavour nor path means Krea."""
        if base is None:
            flavour = flavour or "krea"
            base = REPOSITORIES[flavour]
        subfolder = "" if transformer_subfolder.lower() in {"", "none"} else transformer_subfolder
        return _Weights(
            base=base,
            transformer=transformer or base,
            transformer_subfolder=subfolder if transformer else "transformer",
            vae=vae or base,
            revision=revision,
            variant=variant,
            flavour=flavour,
        )

    def architecture(self, weights: Weights) -> str:
        """The modelspec name, such as ``flux-1-dev/lora``."""
        return f"flux-1-{weights.flavour or 'dev'}/lora"

    def text_recipe(self, weights: Weights, settings: TextSettings) -> str:
        """Both encoders and tokenizers, their precision, and the length that prompts are padded to."""
        folders = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        parts = [fingerprint(weights.base, folder, weights.revision) for folder in folders]
        how = (*settings.precisions, str(settings.max_length), settings.padding)
        return "/".join(["flux-text-2", *parts, str(weights.variant), *how])

    def latent_recipe(self, weights: Weights) -> str:
        """The autoencoder's weights."""
        return "/".join(["flux-latents-1", fingerprint(weights.vae, "vae", weights.revision), str(weights.variant)])

    def text_encoder(
        self, weights: Weights, settings: TextSettings, compute: Compute
    ) -> AbstractContextManager[TextEncoder]:
        """CLIP-L and T5, with their tokenizers."""
        return text.open_encoders(weights, settings.precisions, settings.max_length, compute, padding=settings.padding)

    def codec(
        self, weights: Weights, compute: Compute, *, tiling: bool, slicing: bool
    ) -> AbstractContextManager[LatentCodec]:
        """The 16-channel autoencoder."""
        return vae.open_codec(weights, compute, tiling=tiling, slicing=slicing)

    def denoiser(self, weights: Weights, compute: Compute) -> Denoiser:
        """The frozen transformer."""
        return denoiser.load(weights, compute)

    def automatic_shift(self, height: int, width: int) -> float:
        """The shift that FLUX.1 was trained with at this size of the latents.

        exp(m L + b) for L packed tokens, a line through (256, 0.5) and (4096, 1.15); Esser et al. 2024
        (arXiv 2403.03206) give the reason, the FLUX.1 release the numbers.
        """
        tokens = (height // 2) * (width // 2)
        slope = (1.15 - 0.5) / (4096 - 256)
        return math.exp(slope * tokens + 0.5 - 256 * slope)

    def sampling_schedule(self, weights: Weights, steps: int, height: int, width: int) -> SamplingSchedule:
        """The noise levels of the model's own scheduler."""
        return sampling.schedule(weights, steps, height, width)
