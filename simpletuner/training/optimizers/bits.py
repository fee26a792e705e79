"""The optimizers of bitsandbytes: small state, and state that moves to main memory when the card is full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simpletuner.training.optimizers.recipe import Library, Recipe

_BITS = Library("bitsandbytes", "bitsandbytes", extra="bnb")


def bits(name: str, summary: str, defaults: Mapping[str, Any], *, instead_of: str = "") -> Recipe:
    """An optimizer of bitsandbytes."""
    path = f"bitsandbytes.optim.{name}"
    return Recipe(summary, _BITS, path, defaults, goes_by_weight=True, instead_of=instead_of)


ADAMW: Mapping[str, Any] = {"betas": (0.9, 0.999), "weight_decay": 0.01, "eps": 1e-6}
ADAM: Mapping[str, Any] = {"betas": (0.9, 0.999), "weight_decay": 0.0, "eps": 1e-8}
LION: Mapping[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 0.0}
_ADAGRAD: Mapping[str, Any] = {"lr_decay": 0.0, "weight_decay": 0.0, "eps": 1e-10}
_ADEMAMIX: Mapping[str, Any] = {"betas": (0.9, 0.999, 0.9999), "alpha": 5.0, "eps": 1e-8, "weight_decay": 0.01}
_NESTEROV: Mapping[str, Any] = {"momentum": 0.9, "nesterov": True}

TABLE = {
    "bnb-adagrad": bits("Adagrad", "Adagrad of bitsandbytes.", _ADAGRAD),
    "bnb-adagrad8bit": bits("Adagrad8bit", "Adagrad of bitsandbytes with 8-bit state.", _ADAGRAD),
    "bnb-adam": bits("Adam", "Adam of bitsandbytes.", ADAM),
    "bnb-adam8bit": bits("Adam8bit", "Adam of bitsandbytes with 8-bit state.", ADAM),
    "bnb-adamw": bits("AdamW", "AdamW of bitsandbytes with 32-bit state.", ADAMW),
    "bnb-adamw8bit": bits(
        "AdamW8bit", "AdamW of bitsandbytes with 8-bit state: a quarter of the optimizer's memory.", ADAMW
    ),
    "bnb-adamw-paged": bits(
        "PagedAdamW32bit",
        "AdamW of bitsandbytes whose 32-bit state moves to main memory when the card is full.",
        ADAMW,
    ),
    "bnb-adamw8bit-paged": bits(
        "PagedAdamW8bit",
        "AdamW of bitsandbytes with 8-bit state that moves to main memory when the card is full.",
        ADAMW,
    ),
    "bnb-ademamix": bits("AdEMAMix", "AdamW with a second, very slow average; has three betas.", _ADEMAMIX),
    "bnb-ademamix8bit": bits("AdEMAMix8bit", "AdEMAMix with 8-bit state.", _ADEMAMIX),
    "bnb-ademamix-paged": bits(
        "PagedAdEMAMix", "AdEMAMix whose state moves to main memory when the card is full.", _ADEMAMIX
    ),
    "bnb-ademamix8bit-paged": bits(
        "PagedAdEMAMix8bit", "AdEMAMix with 8-bit state that moves to main memory when the card is full.", _ADEMAMIX
    ),
    "bnb-lion": bits(
        "Lion",
        "Lion of bitsandbytes: one state per weight; wants a learning rate three to ten times lower than AdamW.",
        LION,
    ),
    "bnb-lion8bit": bits("Lion8bit", "Lion of bitsandbytes with 8-bit state: the smallest optimizer memory.", LION),
    "bnb-lion-paged": bits(
        "PagedLion", "Lion of bitsandbytes whose state moves to main memory when the card is full.", LION
    ),
    "bnb-lion8bit-paged": bits(
        "PagedLion8bit",
        "Lion of bitsandbytes with 8-bit state that moves to main memory when the card is full.",
        LION,
    ),
    "bnb-sgd-nesterov8bit": bits("SGD8bit", "Gradient descent with Nesterov's momentum in 8 bits.", _NESTEROV),
}
