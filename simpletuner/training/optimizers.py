"""The optimizers by name: each is one function from parameters and settings to a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ConfigError, Problem
from simpletuner.schema import Choice

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What an optimizer is made with; `extra` is merged over the optimizer's own defaults."""

    learning_rate: float
    beta1: float | None = None
    beta2: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def over(self, **defaults: Any) -> dict[str, Any]:
        """Keyword arguments for an optimizer: its defaults, then the user's betas, then the user's extras."""
        given: dict[str, Any] = {"lr": self.learning_rate, **defaults}
        if self.beta1 is not None and self.beta2 is not None:
            given["betas"] = (self.beta1, self.beta2, *given.get("betas", ())[2:])
        return {**given, **self.extra}


Build = Callable[["Parameters", Settings], "Optimizer"]


def adamw(parameters: Parameters, settings: Settings) -> Optimizer:
    """AdamW in torch's fused form: the reference that others are compared with."""
    import torch

    return torch.optim.AdamW(parameters, **settings.over(betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8, fused=True))


def adamw_bf16(parameters: Parameters, settings: Settings) -> Optimizer:
    """AdamW for bf16 weights: Kahan summation and stochastic rounding keep small updates from being lost."""
    from simpletuner.training.adamw_bf16 import AdamWBF16

    return AdamWBF16(parameters, **settings.over(betas=(0.9, 0.999), weight_decay=0.01, eps=1e-6))


def bnb_adamw(parameters: Parameters, settings: Settings) -> Optimizer:
    """AdamW of bitsandbytes with 32-bit state."""
    return _bitsandbytes("AdamW", parameters, settings.over(**_ADAMW_DEFAULTS))


def bnb_adamw8bit(parameters: Parameters, settings: Settings) -> Optimizer:
    """AdamW of bitsandbytes with 8-bit state: a quarter of the optimizer's memory."""
    return _bitsandbytes("AdamW8bit", parameters, settings.over(**_ADAMW_DEFAULTS))


def bnb_adamw_paged(parameters: Parameters, settings: Settings) -> Optimizer:
    """AdamW of bitsandbytes whose 32-bit state moves to main memory when the card is full."""
    return _bitsandbytes("PagedAdamW32bit", parameters, settings.over(**_ADAMW_DEFAULTS))


def bnb_adamw8bit_paged(parameters: Parameters, settings: Settings) -> Optimizer:
    """AdamW of bitsandbytes with 8-bit state that moves to main memory when the card is full."""
    return _bitsandbytes("PagedAdamW8bit", parameters, settings.over(**_ADAMW_DEFAULTS))


def bnb_lion(parameters: Parameters, settings: Settings) -> Optimizer:
    """Lion of bitsandbytes: one state per weight; wants a learning rate three to ten times lower than AdamW."""
    return _bitsandbytes("Lion", parameters, settings.over(**_LION_DEFAULTS))


def bnb_lion8bit(parameters: Parameters, settings: Settings) -> Optimizer:
    """Lion of bitsandbytes with 8-bit state: the smallest optimizer memory."""
    return _bitsandbytes("Lion8bit", parameters, settings.over(**_LION_DEFAULTS))


def bnb_lion8bit_paged(parameters: Parameters, settings: Settings) -> Optimizer:
    """Lion of bitsandbytes with 8-bit state that moves to main memory when the card is full."""
    return _bitsandbytes("PagedLion8bit", parameters, settings.over(**_LION_DEFAULTS))


def _bitsandbytes(name: str, parameters: Parameters, arguments: dict[str, Any]) -> Optimizer:
    import bitsandbytes as bnb

    made: Optimizer = vars(bnb.optim)[name](parameters, **arguments)
    return made


_ADAMW_DEFAULTS = {"betas": (0.9, 0.999), "weight_decay": 0.01, "eps": 1e-6}
_LION_DEFAULTS = {"betas": (0.9, 0.99), "weight_decay": 0.0}
_ADAMW = "use adamw_bf16"
_TORCH = (
    *("adam", "sgd", "radam", "nadam", "rmsprop", "adagrad", "adadelta", "adafactor", "adamax", "asgd", "sparseadam"),
)
_OPTIMI = ("stableadamw", "adamw", "radam", "ranger", "adan", "adam", "sgd")
_SDNQ = ("adamw", "adamw+no_quant", "adafactor", "came", "muon", "muon+quantized_matmul")

OPTIMIZERS: Choice[Build] = Choice(
    "optimizer",
    {
        "adamw_bf16": adamw_bf16,
        "adamw": adamw,
        "torch-adamw": adamw,
        "bnb-adamw": bnb_adamw,
        "bnb-adamw8bit": bnb_adamw8bit,
        "bnb-adamw-paged": bnb_adamw_paged,
        "bnb-adamw8bit-paged": bnb_adamw8bit_paged,
        "bnb-lion": bnb_lion,
        "bnb-lion8bit": bnb_lion8bit,
        "bnb-lion8bit-paged": bnb_lion8bit_paged,
    },
    later={
        **{f"torch-{name}": "use adamw" for name in _TORCH},
        **{f"optimi-{name}": _ADAMW for name in _OPTIMI},
        "optimi-lion": "use bnb-lion",
        "adamw_schedulefree": _ADAMW,
        "adamw_schedulefree+aggressive": _ADAMW,
        "adamw_schedulefree+no_kahan": _ADAMW,
        "soap": _ADAMW,
        "muon": _ADAMW,
        "prodigy": "use adamw_bf16 with a learning_rate of your own",
        **{f"ao-{name}": "use bnb-adamw8bit" for name in ("adamw8bit", "adamw4bit", "adamfp8", "adamwfp8")},
        **{f"bnb-{name}": "use bnb-adamw" for name in ("adagrad", "adam", "ademamix", "ademamix-paged")},
        **{f"bnb-{name}8bit": "use bnb-adamw8bit" for name in ("adagrad", "adam", "ademamix")},
        "bnb-ademamix8bit-paged": "use bnb-adamw8bit-paged",
        "bnb-lion-paged": "use bnb-lion8bit-paged",
        **{f"sdnq-{name}": "use bnb-adamw8bit" for name in _SDNQ},
        "sdnq-lion": "use bnb-lion8bit",
    },
)


def build(name: str, parameters: Parameters, settings: Settings) -> Optimizer:
    """Make the named optimizer.

    Raises:
        ConfigError: Its package is not installed, or it does not know a setting of `optimizer_config`.
    """
    try:
        return OPTIMIZERS[name](parameters, settings)
    except ImportError as error:
        advice = f"'{name}' needs a package that is missing ({error}); install it with: pip install 'simpletuner[bnb]'"
        raise ConfigError("the config", [Problem("optimizer", advice)]) from error
    except TypeError as error:
        raise ConfigError("the config", [Problem("optimizer_config", f"{error}, for optimizer '{name}'")]) from error
