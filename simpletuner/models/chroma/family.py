"""The facts of Chroma: repositories, licence, and how its parts are opened. Imports no torch.

Chroma was made from FLUX.1 schnell: the same autoencoder and the same tokens, without CLIP and without distillation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simpletuner.errors import Problem
from simpletuner.models.chroma import denoiser, loading, single_file, text
from simpletuner.models.flavours import Flavour
from simpletuner.models.flux import loading as of_flux
from simpletuner.models.flux import sampling, vae
from simpletuner.models.flux.family import BLOCKS, Flux
from simpletuner.models.flux.single_file import bundled
from simpletuner.models.flux.single_file.parts import AUTOENCODER, CHROMA, T5, TRANSFORMER
from simpletuner.models.flux.single_file.whole import located, missing_parts, torn_folders, wrong_codec
from simpletuner.models.sources import fingerprint, is_file
from simpletuner.schema import Choice

if TYPE_CHECKING:
    from torch import nn

    from simpletuner.models.controlling import ControlNet
    from simpletuner.models.family import (
        Compute,
        Denoiser,
        LatentCodec,
        SamplingSchedule,
        Sources,
        TextEncoder,
        TextSettings,
        Weights,
    )
    from simpletuner.models.kept import Kept
    from simpletuner.models.offload import Offload
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
    flavours: Choice[Flavour] = FLAVOURS
    usual = "base"
    always_masks_prompt = True
    controlled = None
    open_text = None
    defaults: Mapping[str, Any] = {"validation_guidance_real": 4.0, "validation_num_inference_steps": 28}
    unread: Mapping[str, str] = {
        "text_encoder_2_precision": "Chroma has one text encoder, T5, and text_encoder_1_precision is for it",
        "t5_padding": "Chroma never sees the padding of prompts",
        **dict.fromkeys(
            (
                *("flux_guidance_mode", "flux_guidance_value", "flux_guidance_min", "flux_guidance_max"),
                "validation_guidance",
            ),
            "Chroma is told no guidance value",
        ),
    }
    licence: Mapping[str, str] = {"license": "apache-2.0"}

    def licence_of(self, weights: Weights) -> Mapping[str, str]:
        """All of Chroma is free."""
        return self.licence

    def weights(self, given: Sources) -> Weights:
        """Where the weights come from; neither flavour nor path means Base."""
        return replace(located(given, FLAVOURS, self.usual), clip=given.clip)

    def missing(self, weights: Weights, *, follows: bool = False) -> Iterator[Problem]:
        """The parts that are not in the single file in which they are looked for, and one that Chroma has not."""
        if weights.clip is not None:
            yield Problem("text_encoder_path", "Chroma has no CLIP text encoder; leave it out")
        places = {TRANSFORMER: weights.transformer, AUTOENCODER: weights.vae, T5: weights.t5 or weights.base}
        yield from missing_parts(weights.base, places, own_sign=CHROMA)
        folders = {TRANSFORMER: weights.transformer_subfolder, AUTOENCODER: "vae", T5: "text_encoder"}
        held = {part: (source, folders[part]) for part, source in places.items()}
        yield from torn_folders(weights.base, held, weights.variant, "ChromaTransformer2DModel")
        yield from wrong_codec(weights, {})

    def block_counts(self, weights: Weights) -> tuple[int, ...]:
        """Double and single blocks; all that is published has as many as FLUX.1."""
        if any(weights.transformer == one.repository for one in FLAVOURS.values()):
            return BLOCKS
        return of_flux.block_counts(of_flux.known_config(weights, single_file.FORM))

    def outline(self, weights: Weights, *, follows: bool = False, beside: ControlNet | None = None) -> nn.Module | None:
        """The empty transformer, which follows nothing and has nothing beside it."""
        config = of_flux.known_config(weights, single_file.FORM)
        return loading.empty_transformer(config) if config else None

    def architecture(self, weights: Weights) -> str:
        """The modelspec name."""
        return "chroma/lora"

    def text_recipe(self, weights: Weights, settings: TextSettings) -> str:
        """Encoder and tokenizer, the precision, and the length that prompts are padded to."""
        places = {"text_encoder": weights.t5 or weights.base, "tokenizer": weights.base}
        parts = [fingerprint(place, folder, weights.revision) for folder, place in places.items()]
        how = (settings.precisions[0], str(settings.max_length))
        return "/".join(["chroma-text-1", *parts, str(weights.variant), *how])

    def latent_recipe(self, weights: Weights) -> str:
        """The autoencoder is that of FLUX.1."""
        return Flux().latent_recipe(weights)

    def text_encoder(
        self, weights: Weights, settings: TextSettings, compute: Compute
    ) -> AbstractContextManager[TextEncoder]:
        """T5, with its tokenizer."""
        return text.open_encoder(weights, settings, compute)

    def codec(
        self, weights: Weights, compute: Compute, *, tiling: bool, slicing: bool, offload: Offload | None = None
    ) -> AbstractContextManager[LatentCodec]:
        """The 16-channel autoencoder of FLUX.1."""
        return vae.open_codec(weights, compute, tiling=tiling, slicing=slicing, plan=offload)

    def denoiser(
        self,
        weights: Weights,
        compute: Compute,
        *,
        pack: Pack | None = None,
        masks_prompt: bool = True,
        follows: bool = False,
        kept: Kept | None = None,
    ) -> Denoiser:
        """The frozen transformer; padding is always hidden from it, whatever is asked for, and it follows nothing."""
        return denoiser.load(weights, compute, pack=pack, kept=kept)

    def automatic_shift(self, height: int, width: int) -> float:
        """That of FLUX.1."""
        return Flux().automatic_shift(height, width)

    def sampling_schedule(self, weights: Weights, steps: int, height: int, width: int) -> SamplingSchedule:
        """The noise levels of the model's own scheduler; single files have none, and take those of FLUX.1 dev."""
        source = str(bundled.scheduler_folder(takes_guidance=True)) if is_file(weights.base) else weights.base
        return sampling.schedule(replace(weights, base=source), steps, height, width)
