"""The published variants of a model family: where each is, and which options it is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from simpletuner.models.family import Family
from simpletuner.schema import Choice

if TYPE_CHECKING:
    from simpletuner.models.family import OpenControlled, Weights
    from simpletuner.models.learned_text import OpenText


@dataclass(frozen=True)
class Flavour:
    """One published variant."""

    meaning: str
    repository: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Options that it needs, by their names; what the user gives wins."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """Those without which training would harm the model."""
    is_free: bool = False
    """Whether its licence is Apache 2.0."""
    takes_references: bool = False
    """Whether it looks at other pictures besides the prompt."""
    fills: bool = False
    """Whether it fills in what is missing of a picture, and so needs to know what that is."""
    takes_controlnet: bool = True
    """Whether a ControlNet can be trained beside it, if one can beside others of the family."""

    def __post_init__(self) -> None:
        """The meaning is what help and documentation show."""
        object.__setattr__(self, "__doc__", self.meaning)


class Flavoured(Family, Protocol):
    """A family with its published variants."""

    @property
    def flavours(self) -> Choice[Flavour]:
        """The values of `model_flavour`."""

    @property
    def usual(self) -> str:
        """The flavour of a config that names neither a flavour nor a place."""

    @property
    def always_masks_prompt(self) -> bool:
        """Whether the padding of prompts is hidden, whatever the config says."""

    @property
    def controlled(self) -> OpenControlled | None:
        """How a ControlNet is put beside one of its models; None where there is no such thing."""

    @property
    def open_text(self) -> OpenText | None:
        """How its text encoders are opened for training; None where they cannot be trained."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Options that all of its flavours, and models made from them, need unless others are given."""

    @property
    def unread(self) -> Mapping[str, str]:
        """Options that none of its models reads, by their names, and why."""

    def licence_of(self, weights: Weights) -> Mapping[str, str]:
        """Licence fields of the model card of what is trained on these weights: license, license_name, license_link."""
