"""Optimizers by the names that other trainers and other libraries have for them."""

from __future__ import annotations

from simpletuner.training.optimizers import matrix
from simpletuner.training.optimizers.bits import ADAM, ADAMW, LION, bits
from simpletuner.training.optimizers.recipe import TORCH, Recipe

_AO = "torchao"
_SDNQ = "sdnq"
_BETAS = (0.9, 0.95)

STAND_INS: dict[str, Recipe] = {
    "ao-adamw8bit": bits("AdamW8bit", "Stands for torchao's: AdamW with 8-bit state.", ADAMW, instead_of=_AO),
    "ao-adamw4bit": bits("AdamW8bit", "Stands for torchao's: AdamW, with 8-bit state.", ADAMW, instead_of=_AO),
    "ao-adamfp8": bits("Adam8bit", "Stands for torchao's: Adam with 8-bit state.", ADAM, instead_of=_AO),
    "ao-adamwfp8": bits("AdamW8bit", "Stands for torchao's: AdamW with 8-bit state.", ADAMW, instead_of=_AO),
    "sdnq-adamw": bits(
        "AdamW8bit", "Stands for sdnq's: AdamW with 8-bit state.", {**ADAMW, "betas": _BETAS}, instead_of=_SDNQ
    ),
    "sdnq-adamw+no_quant": Recipe(
        "Stands for sdnq's: AdamW with 32-bit state.",
        TORCH,
        "torch.optim.AdamW",
        {"betas": _BETAS, "weight_decay": 0.01, "fused": True},
        goes_by_weight=True,
        instead_of=_SDNQ,
    ),
    "sdnq-adafactor": matrix.adafactor(
        "Stands for sdnq's: Adafactor of transformers.", instead_of=_SDNQ, weight_decay=0.01
    ),
    "sdnq-came": matrix.came("Stands for sdnq's: CAME.", instead_of=_SDNQ, betas=(0.9, 0.95, 0.9999)),
    "sdnq-lion": bits(
        "Lion8bit", "Stands for sdnq's: Lion with 8-bit state.", {**LION, "weight_decay": 0.01}, instead_of=_SDNQ
    ),
    "sdnq-muon": matrix.muon("Stands for sdnq's: Muon.", instead_of=_SDNQ),
    "sdnq-muon+quantized_matmul": matrix.muon("Stands for sdnq's: Muon.", instead_of=_SDNQ),
}
"""Names that SimpleTuner gives to optimizers of torchao and sdnq; here, other libraries serve them."""

ALIASES = {
    "AdamW": "torch-adamw",
    "AdaFactor": "adafactor",
    "transformers.optimization.Adafactor": "adafactor",
    "AdamW8bit": "bnb-adamw8bit",
    "PagedAdamW": "bnb-adamw-paged",
    "PagedAdamW32bit": "bnb-adamw-paged",
    "PagedAdamW8bit": "bnb-adamw8bit-paged",
    "Lion": "bnb-lion",
    "Lion8bit": "bnb-lion8bit",
    "PagedLion8bit": "bnb-lion8bit-paged",
    "SGDNesterov": "torch-sgd-nesterov",
    "SGDNesterov8bit": "bnb-sgd-nesterov8bit",
    "DAdaptation": "dadapt-adam-preprint",
    "DAdaptAdamPreprint": "dadapt-adam-preprint",
    "DAdaptAdaGrad": "dadapt-adagrad",
    "DAdaptAdam": "dadapt-adam",
    "DAdaptAdan": "dadapt-adan",
    "DAdaptAdanIP": "dadapt-adan-ip",
    "DAdaptLion": "dadapt-lion",
    "DAdaptSGD": "dadapt-sgd",
    "Prodigy": "prodigyopt",
    "prodigyopt.Prodigy": "prodigyopt",
    "ProdigyPlusScheduleFree": "prodigy",
    "prodigyplus.ProdigyPlusScheduleFree": "prodigy",
    "prodigyplus.prodigy_plus_schedulefree.ProdigyPlusScheduleFree": "prodigy",
    "AdamWScheduleFree": "adamw_schedulefree",
    "schedulefree.AdamWScheduleFree": "adamw_schedulefree",
    "RAdamScheduleFree": "radam_schedulefree",
    "schedulefree.RAdamScheduleFree": "radam_schedulefree",
    "SGDScheduleFree": "sgd_schedulefree",
    "schedulefree.SGDScheduleFree": "sgd_schedulefree",
    "bitsandbytes.optim.AdEMAMix": "bnb-ademamix",
    "bitsandbytes.optim.AdEMAMix8bit": "bnb-ademamix8bit",
    "bitsandbytes.optim.PagedAdEMAMix": "bnb-ademamix-paged",
    "bitsandbytes.optim.PagedAdEMAMix8bit": "bnb-ademamix8bit-paged",
    "pytorch_optimizer.CAME": "came",
    "pytorch_optimizer.SOAP": "soap",
    "pytorch_optimizer.Muon": "muon",
    **{name: f"torch-{name.lower()}" for name in ("Adam", "SGD", "RAdam", "NAdam", "RMSprop", "Adagrad")},
    **{name: f"torch-{name.lower()}" for name in ("Adadelta", "Adamax", "ASGD")},
    **{f"torch.optim.{name}": f"torch-{name.lower()}" for name in ("Adam", "AdamW", "SGD", "Adafactor")},
    **{f"torch.optim.{name}": f"torch-{name.lower()}" for name in ("RAdam", "NAdam", "RMSprop", "Adagrad")},
    **{f"torch.optim.{name}": f"torch-{name.lower()}" for name in ("Adadelta", "Adamax", "ASGD")},
    **{f"bitsandbytes.optim.{name}": f"bnb-{name.lower()}" for name in ("Adam", "Adam8bit", "AdamW", "AdamW8bit")},
    **{f"bitsandbytes.optim.{name}": f"bnb-{name.lower()}" for name in ("Lion", "Lion8bit")},
    **{f"bitsandbytes.optim.{name}": f"bnb-{name.lower()}" for name in ("Adagrad", "Adagrad8bit")},
    "bitsandbytes.optim.PagedAdamW": "bnb-adamw-paged",
    "bitsandbytes.optim.PagedAdamW8bit": "bnb-adamw8bit-paged",
    "bitsandbytes.optim.PagedLion": "bnb-lion-paged",
    "bitsandbytes.optim.PagedLion8bit": "bnb-lion8bit-paged",
    **{f"dadaptation.{name}": f"dadapt-{name.removeprefix('DAdapt').lower()}" for name in ("DAdaptAdam", "DAdaptLion")},
    **{f"dadaptation.{name}": f"dadapt-{name.removeprefix('DAdapt').lower()}" for name in ("DAdaptSGD", "DAdaptAdan")},
    "dadaptation.DAdaptAdaGrad": "dadapt-adagrad",
}
"""Names of sd-scripts, where case does not matter; a name of our own that is spelled exactly goes first."""
