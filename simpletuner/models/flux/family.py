"""The facts of FLUX.1: repositories, licences, shift, and how its parts are opened. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from simpletuner.errors import Problem
from simpletuner.models.flux import controlnet, denoiser, inputs, learned_text, loading, sampling, text, vae
from simpletuner.models.flux.flavours import FLAVOURS
from simpletuner.models.flux.single_file.parts import AUTOENCODER, CLIP, T5, TRANSFORMER
from simpletuner.models.flux.single_file.whole import located, missing_parts, torn_folders, wrong_codec
from simpletuner.models.sources import fingerprint

if TYPE_CHECKING:
    from torch import nn

    from simpletuner.models.controlling import ControlNet
    from simpletuner.models.family import (
        Compute,
        Controlled,
        Denoiser,
        LatentCodec,
        SamplingSchedule,
        Sources,
        TextEncoder,
        TextSettings,
        Weights,
    )
    from simpletuner.models.flavours import Flavour
    from simpletuner.models.kept import Kept
    from simpletuner.models.learned_text import TextPart
    from simpletuner.models.offload import Offload
    from simpletuner.models.streaming import Pack
    from simpletuner.schema import Choice

BLOCKS = (19, 38)
"""Double and single blocks of the published transformers."""


class Flux:
    """FLUX.1 in all of its flavours."""

    name = "flux"
    flavours: Choice[Flavour] = FLAVOURS
    usual = "krea"
    always_masks_prompt = False
    defaults: Mapping[str, Any] = {}
    unread: Mapping[str, str] = {}
    licence: Mapping[str, str] = {
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    }

    def licence_of(self, weights: Weights) -> Mapping[str, str]:
        """Licence fields of the model card of what is trained on these weights."""
        flavour = FLAVOURS.get(weights.flavour or "")
        return {"license": "apache-2.0"} if flavour is not None and flavour.is_free else self.licence

    def weights(self, given: Sources) -> Weights:
        """Where the weights come from; neither flavour nor path means Krea."""
        return located(given, FLAVOURS, self.usual)

    def missing(self, weights: Weights, *, follows: bool = False) -> Iterator[Problem]:
        """The parts that are not where they are looked for."""
        encoders = {CLIP: weights.clip or weights.base, T5: weights.t5 or weights.base}
        places = {TRANSFORMER: weights.transformer, AUTOENCODER: weights.vae, **encoders}
        yield from missing_parts(weights.base, places)
        folders = {TRANSFORMER: weights.transformer_subfolder, AUTOENCODER: "vae", CLIP: "text_encoder"}
        folders[T5] = "text_encoder_2"
        held = {part: (source, folders[part]) for part, source in places.items()}
        torn = list(torn_folders(weights.base, held, weights.variant, "FluxTransformer2DModel"))
        yield from torn
        config = {} if torn else loading.known_config(weights)
        if wrong := inputs.wrong_with(config, weights.flavour, follows=follows):
            yield Problem("model_flavour", wrong)
        yield from wrong_codec(weights, {} if torn else config)

    def block_counts(self, weights: Weights) -> tuple[int, ...]:
        """Double and single blocks; all that is published has as many."""
        if any(weights.transformer == one.repository for one in FLAVOURS.values()):
            return BLOCKS
        return loading.block_counts(loading.known_config(weights))

    def outline(self, weights: Weights, *, follows: bool = False, beside: ControlNet | None = None) -> nn.Module | None:
        """The empty transformer, or the empty ControlNet beside it."""
        config = loading.known_config(weights)
        if beside is not None:
            return controlnet.outline(config, beside)
        shape = inputs.widened(config) if config and follows else config
        return loading.empty_transformer(shape) if shape else None

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
        return text.open_encoders(weights, settings, compute)

    def codec(
        self, weights: Weights, compute: Compute, *, tiling: bool, slicing: bool, offload: Offload | None = None
    ) -> AbstractContextManager[LatentCodec]:
        """The 16-channel autoencoder."""
        return vae.open_codec(weights, compute, tiling=tiling, slicing=slicing, plan=offload)

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
        """The frozen transformer."""
        return denoiser.load(
            weights,
            compute,
            pack=pack,
            masks_prompt=masks_prompt,
            takes_references=weights.flavour is not None and FLAVOURS[weights.flavour].takes_references,
            follows=follows,
            kept=kept,
        )

    def controlled(
        self, base: Denoiser, weights: Weights, plan: ControlNet, compute: Compute, pack: Pack | None = None
    ) -> Controlled:
        """The transformer beside a ControlNet that begins as a copy of its first blocks, or as one of its own."""
        assert isinstance(base, denoiser.FluxDenoiser)
        return controlnet.beside(base, controlnet.load(weights, plan, compute, pack))

    def open_text(
        self, weights: Weights, settings: TextSettings, compute: Compute, *, wanted: Collection[str]
    ) -> Sequence[TextPart]:
        """CLIP-L and T5, loaded to stay."""
        return learned_text.opened(weights, settings, compute, wanted=wanted)

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
