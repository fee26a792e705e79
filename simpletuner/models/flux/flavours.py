"""The published variants of FLUX.1."""

from __future__ import annotations

from simpletuner.models.flavours import Flavour
from simpletuner.schema import Choice

_UNDISTILLED = {"validation_num_inference_steps": 28, "validation_guidance_real": 6.0}

FLAVOURS: Choice[Flavour] = Choice(
    "FLUX flavour",
    {
        "krea": Flavour(
            "FLUX.1 Krea, a photographic variant of dev; used when neither flavour nor path is given.",
            "black-forest-labs/FLUX.1-Krea-dev",
        ),
        "dev": Flavour("FLUX.1 dev, the usual base for LoRA training.", "black-forest-labs/FLUX.1-dev"),
        "schnell": Flavour(
            "FLUX.1 schnell draws in four steps; it is trained at those steps, beside a helping adapter.",
            "black-forest-labs/FLUX.1-schnell",
            defaults={
                "flux_fast_schedule": True,
                "tokenizer_max_length": 256,
                "assistant_lora_path": "ostris/FLUX.1-schnell-training-adapter",
                "validation_num_inference_steps": 4,
            },
            needs={"flux_fast_schedule": True},
            is_free=True,
        ),
        "kontext": Flavour(
            "FLUX.1 Kontext changes pictures: it is trained on pairs of pictures and an instruction.",
            "black-forest-labs/FLUX.1-Kontext-dev",
            takes_references=True,
            takes_controlnet=False,
        ),
        "fill": Flavour(
            "FLUX.1 Fill paints what a mask covers; it is trained on pictures with masks.",
            "black-forest-labs/FLUX.1-Fill-dev",
            defaults={"validation_guidance": 30.0},
            fills=True,
            takes_controlnet=False,
        ),
        "fluxbooru": Flavour(
            "FLUX.1 without guidance distillation, trained on booru pictures; validated with real guidance.",
            "terminusresearch/fluxbooru-v0.3",
            defaults={**_UNDISTILLED, "flux_guidance_value": 3.5},
        ),
        "libreflux": Flavour(
            "FLUX.1 schnell without distillation, which does not see the padding of prompts.",
            "jimmycarter/LibreFlux-SimpleTuner",
            defaults={**_UNDISTILLED, "flux_attention_masked_training": True},
            needs={"flux_attention_masked_training": True},
            is_free=True,
        ),
    },
)
