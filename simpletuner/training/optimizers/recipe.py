"""What is known of an optimizer before it is made: where it comes from, its defaults, and what it does by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol, cast

from simpletuner.training.optimizers import values

if TYPE_CHECKING:
    from torch.optim import Optimizer

    Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What an optimizer is made with; `extra` is merged over the optimizer's own defaults."""

    learning_rate: float
    beta1: float | None = None
    beta2: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def over(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for an optimizer: its defaults, then the user's betas, then the user's extras."""
        given: dict[str, Any] = {"lr": self.learning_rate, **defaults}
        if self.beta1 is not None and self.beta2 is not None and "betas" in given:
            given["betas"] = (self.beta1, self.beta2, *given["betas"][2:])
        return {**given, **{name: _plain(value) for name, value in self.extra.items()}}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Averaging(Protocol):
    """An optimizer that trains other weights than those to be used."""

    def train(self) -> None:
        """Go over to the weights that are trained."""

    def eval(self) -> None:
        """Go over to the weights that are to be used."""


@dataclass(frozen=True)
class Library:
    """A package that optimizers come from, and what installs it."""

    module: str
    package: str
    extra: str | None = "optimizers"

    def missing(self) -> str | None:
        """What to install, when the package is not there."""
        if find_spec(self.module) is not None:
            return None
        install = f"pip install 'simpletuner[{self.extra}]'" if self.extra else f"pip install {self.package}"
        return f"needs the package {self.package}, which is not installed; install it with: {install}"


TORCH = Library("torch", "torch", extra=None)


def plainly(made: type[Optimizer], groups: Groups, arguments: dict[str, Any]) -> Optimizer:
    """Make an optimizer as its class says."""
    return made(groups, **arguments)


@dataclass(frozen=True)
class Recipe:
    """One optimizer by name."""

    summary: str
    """What it is, for users."""
    library: Library
    path: str
    """The class, as ``module.Class``."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[type[Optimizer], Groups, dict[str, Any]], Optimizer] = plainly
    called: Mapping[str, str] = field(default_factory=dict)
    """Settings that SimpleTuner's users know by another name than the class does."""
    finds_rate: bool = False
    """It finds the learning rate by itself; what it is given is a factor, best left at 1."""
    has_one_rate: bool = False
    """It cannot give groups of weights learning rates of their own."""
    averages: bool = False
    """What it trains is not what is to be used: it is switched over for sampling and saving."""
    keeps_schedule: bool = True
    """Whether a schedule of the learning rate makes sense."""
    limits_gradients: bool = False
    """It limits gradients by itself, so that `max_grad_norm` would only be in its way."""
    goes_by_weight: bool = False
    """Each weight can be updated without the others, in the middle of the backward pass."""
    keeps_half: bool = False
    """It is made for weights in bf16; all others train weights in float32."""
    stops_by: str = ""
    """The setting with the step after which it does not change the rate any more."""
    reports: str = ""
    """The name under which the learning rate that it found is reported."""
    instead_of: str = ""
    """Another library whose optimizer this one stands for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.summary)  # what help and documentation show of a choice

    @property
    def has_betas(self) -> bool:
        """Whether `optimizer_beta1` and `optimizer_beta2` mean anything."""
        return "betas" in self.defaults

    def has_one_rate_with(self, settings: Settings) -> bool:
        """Whether all weights have the same learning rate; Adafactor has one when it makes its own."""
        return self.has_one_rate or bool(settings.extra.get("relative_step"))

    def build(self, groups: Groups, settings: Settings) -> Optimizer:
        """Make it; raises what the class raises about settings that it does not take."""
        module, _, name = self.path.rpartition(".")
        made: type[Optimizer] = vars(import_module(module))[name]
        arguments = {self.called.get(key, key): value for key, value in settings.over(self.defaults).items()}
        _refuse_wrong(arguments, made, self.defaults)
        optimizer = self.make(made, groups, arguments)
        if self.averages:
            cast("Averaging", optimizer).train()
        return optimizer


def _refuse_wrong(arguments: Mapping[str, Any], made: type[Optimizer], defaults: Mapping[str, Any]) -> None:
    """Name what a class does not take, and values that it cannot mean; some take anything and make nothing of it."""
    taken = {one.name: one.default for one in signature(made).parameters.values() if one.kind is not one.VAR_KEYWORD}
    if unknown := [name for name in arguments if name not in taken]:
        known = ", ".join(name for name in taken if name not in {"params", "lr", "args"})
        raise TypeError(f"there is no {', '.join(unknown)}; the settings are {known}")
    given = {name: value for name, value in arguments.items() if name != "lr"}
    if said := values.wrong(given, {**taken, **defaults}):
        raise ValueError(said)


def as_groups(parameters: Iterable[Any]) -> Groups:
    """Parameters as groups of them; groups are copied, since some optimizers change what they are given."""
    given = list(parameters)
    return [dict(one) for one in given] if given and isinstance(given[0], dict) else [{"params": given}]
