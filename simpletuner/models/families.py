"""The table of model families, one line for each, and what their flavours mean for other options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from simpletuner.errors import Problem
from simpletuner.models import controlling
from simpletuner.models.chroma.family import Chroma
from simpletuner.models.flavours import Flavour, Flavoured
from simpletuner.models.flux.family import Flux
from simpletuner.schema import Choice


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a family and its flavour need unless others are given, by their names.

    Args:
        given: The options of a config that is not checked yet.
    """
    family = FAMILIES.get(str(given.get("model_family", "flux")).strip())
    if family is None:
        return {}
    usual = None if given.get("pretrained_model_name_or_path") else family.usual
    flavour = family.flavours.get(str(given.get("model_flavour") or usual).strip())
    return {**family.defaults, **(flavour.defaults if flavour else {}), **controlling.defaults(given)}


def unmet(family: str, flavour: str | None, options: Mapping[str, Any]) -> Iterator[Problem]:
    """Options without which training would harm a model of this flavour."""
    chosen = _flavour(family, flavour)
    for name, value in (chosen.needs if chosen else {}).items():
        if options[name] != value:
            shown = str(value).lower()
            yield Problem(name, f"model_flavour '{flavour}' is spoiled by training without it; set it to {shown}")


def takes_references(family: str, flavour: str | None) -> bool:
    """Whether a flavour looks at other pictures besides the prompt."""
    chosen = _flavour(family, flavour)
    return chosen is not None and chosen.takes_references


def fills(family: str, flavour: str | None) -> bool:
    """Whether a flavour fills in what is missing of a picture."""
    chosen = _flavour(family, flavour)
    return chosen is not None and chosen.fills


def takes_controlnet(family: str, flavour: str | None) -> bool:
    """Whether a ControlNet can be trained beside a model of a flavour."""
    chosen = _flavour(family, flavour)
    return FAMILIES[family].controlled is not None and (chosen is None or chosen.takes_controlnet)


def masks_prompts(family: str) -> bool:
    """Whether the padding of prompts is hidden from every model of a family."""
    return FAMILIES[family].always_masks_prompt


def _flavour(family: str, name: str | None) -> Flavour | None:
    return FAMILIES[family].flavours.get(name or "")


FAMILIES: Choice[Flavoured] = Choice("model family", {"flux": Flux(), "chroma": Chroma()})

FLAVOURS: Choice[Flavour] = Choice(
    "model flavour", {name: one for family in FAMILIES.values() for name, one in family.flavours.items()}
)
"""Those of all families."""
