"""The facts of FLUX.1: repositories, licences, shift, and how its parts are opened. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from simpletuner.errors import Problem
from simpletuner.models.flux import denoiser, sampling, text, vae
from simpletuner.models.flux.flavours import FLAVOURS
from simpletuner.models.flux.single_file.parts import AUTOENCODER, CLIP, T5, TRANSFORMER
from simpletuner.models.flux.single_file.whole import missing_parts, source_of
from simpletuner.models.sources import fingerprint

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
    from simpletuner.models.flavours import Flavour
    from simpletuner.models.kept import Kept
    from simpletuner.models.streaming import Pack
    from simpletuner.schema import Choice

from simpletuner.models.family import Weights as _Weights

__all__ = ["FLAVOURS", "Flux"]


class Flux:
    """FLUX.1 in all of its flavours."""

    name = "flux"
    alignment = 64
    flavours: Choice[Flavour] = FLAVOURS
    usual = "krea"
    always_masks_prompt = False
    defaults: Mapping[str, Any] = {}
    licence: Mapping[str, str] = {
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    }

    def licence_of(self, weights: Weights) -> Mapping[str, str]:
        """Licence fields of the model card of what is trained on these weights."""
        flavour = FLAVOURS.get(weights.flavour or "")
        return {"license": "apache-2.0"} if flavour is not None and flavour.is_free else self.licence

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
        """Where the weights come from; neither flavour nor path means Krea.

        A flavour beside a single file gives the parts that the file does not hold.
        """
        if base is None:
            flavour = flavour or self.usual
            base = FLAVOURS[flavour].repository
        known = FLAVOURS.get(flavour or "")
        repository = known.repository if known else None
        subfolder = "" if transformer_subfolder.lower() in {"", "none"} else transformer_subfolder
        return _Weights(
            base=base,
            transformer=source_of(TRANSFORMER, transformer, base, repository),
            transformer_subfolder=subfolder if transformer else "transformer",
            vae=source_of(AUTOENCODER, vae, base, repository),
            revision=revision,
            variant=variant,
            flavour=flavour,
            clip=source_of(CLIP, clip, base, repository),
            t5=source_of(T5, t5, base, repository),
        )

    def missing(self, weights: Weights) -> Iterator[Problem]:
        """The parts that are not in the single file in which they are looked for."""
        encoders = {CLIP: weights.clip or weights.base, T5: weights.t5 or weights.base}
        places = {TRANSFORMER: weights.transformer, AUTOENCODER: weights.vae, **encoders}
        return missing_parts(weights.base, places)

    def architecture(self, weights: Weights) -> str:
        """The modelspec name, such as ``flux-1-dev/lora``."""
        return f"flux-1-{weights.flavour or 'dev'}/lora"

    def text_recipe(self, weights: Weights, settings: TextSettings) -> str:
        """Both encoders and tokenizers, their precision, and the length that prompts are padded to."""
        places = {"text_encoder": weights.clip, "text_encoder_2": weights.t5, "tokenizer": None, "tokenizer_2": None}
        parts = [fingerprint(place or weights.base, folder, weights.revision) for folder, place in places.items()]
        how = (*settings.precisions, str(settings.max_length), settings.padding)
        return "/".join(["flux-text-2", *parts, str(weights.variant), *how])

    def latent_recipe(self, weights: Weights) -> str:
        """The autoencoder's weights."""
        return "/".join(["flux-latents-1", fingerprint(weights.vae, "vae", weights.revision), str(weights.variant)])

    def text_encoder(
        self, weights: Weights, settings: TextSettings, compute: Compute
    ) -> AbstractContextManager[TextEncoder]:
        """CLIP-L and T5, with their tokenizers."""
        return text.open_encoders(
            weights,
            settings.precisions,
            settings.max_length,
            compute,
            padding=settings.padding,
            clip=weights.clip,
            t5=weights.t5,
            pack_via=settings.pack_via,
        )

    def codec(
        self, weights: Weights, compute: Compute, *, tiling: bool, slicing: bool
    ) -> AbstractContextManager[LatentCodec]:
        """The 16-channel autoencoder."""
        return vae.open_codec(weights, compute, tiling=tiling, slicing=slicing)

    def denoiser(
        self,
        weights: Weights,
        compute: Compute,
        *,
        pack: Pack | None = None,
        masks_prompt: bool = False,
        kept: Kept | None = None,
    ) -> Denoiser:
        """The frozen transformer."""
        takes_references = weights.flavour is not None and FLAVOURS[weights.flavour].takes_references
        return denoiser.load(
            weights, compute, pack=pack, masks_prompt=masks_prompt, takes_references=takes_references, kept=kept
        )

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
