"""The optimizers of torch, and AdamW for bf16 weights, which is our own."""

from __future__ import annotations

from typing import Any

from simpletuner.training.optimizers.recipe import TORCH, Recipe


def _torch(name: str, summary: str, **defaults: Any) -> Recipe:
    return Recipe(summary, TORCH, f"torch.optim.{name}", defaults, goes_by_weight=True)


_BETAS = (0.9, 0.999)
_ADAMW = _torch(
    "AdamW",
    "AdamW in torch's fused form: the reference that others are compared with.",
    betas=_BETAS,
    weight_decay=0.01,
    eps=1e-8,
    fused=True,
)

TABLE = {
    "adamw_bf16": Recipe(
        "AdamW for bf16 weights: Kahan summation and stochastic rounding keep small updates from being lost.",
        TORCH,
        "simpletuner.training.adamw_bf16.AdamWBF16",
        {"betas": _BETAS, "weight_decay": 0.01, "eps": 1e-6},
        goes_by_weight=True,
        keeps_half=True,
    ),
    "adamw": _ADAMW,
    "torch-adamw": _ADAMW,
    "torch-adam": _torch(
        "Adam", "Adam: like AdamW, with weight decay as part of the gradient.", betas=_BETAS, eps=1e-8
    ),
    "torch-sgd": _torch("SGD", "Plain gradient descent; momentum is set by optimizer_config.", momentum=0.0),
    "torch-sgd-nesterov": _torch("SGD", "Gradient descent with Nesterov's momentum.", momentum=0.9, nesterov=True),
    "torch-radam": _torch("RAdam", "Adam that warms itself up while its averages are young.", betas=_BETAS, eps=1e-8),
    "torch-nadam": _torch("NAdam", "Adam with Nesterov's momentum.", betas=_BETAS, eps=1e-8, momentum_decay=0.004),
    "torch-rmsprop": _torch("RMSprop", "Divides each gradient by its recent size.", alpha=0.99, eps=1e-8),
    "torch-adagrad": _torch("Adagrad", "Divides each gradient by the size of all before it; slows down.", eps=1e-10),
    "torch-adadelta": _torch(
        "Adadelta", "Scales updates by their own recent size; wants rates near 1.", rho=0.9, eps=1e-6
    ),
    "torch-adafactor": _torch(
        "Adafactor",
        "Torch's Adafactor: the second moment is kept by rows and columns, which takes little memory.",
        beta2_decay=-0.8,
        eps=(None, 1e-3),
        d=1.0,
    ),
    "torch-adamax": _torch("Adamax", "Adam that divides by the largest recent gradient.", betas=_BETAS, eps=1e-8),
    "torch-asgd": _torch("ASGD", "Gradient descent that also keeps an average.", lambd=1e-4, alpha=0.75, t0=1e6),
}

LATER = {"torch-sparseadam": "it is for sparse gradients, which no layer here has; use torch-adam"}
