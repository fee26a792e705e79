"""The model card: what somebody who finds the weights on the Hub needs to know, rendered from the run's own config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Template

import yaml

from simpletuner.training.prompts import Shot
from simpletuner.training.publishing.made import MADE, Made

_BODY = Template("""
# $title

$noun for $link, trained with SimpleTuner.
$note
$sheet
## Trigger words

$triggers

## Use it

```python
import torch
$usage
image = pipeline(
$given
).images[0]
image.save("image.png")
```
$average
## Validation settings

$validation

## Training

$training

## Data sets

$datasets
""")


@dataclass(frozen=True)
class Example:
    """A validation image shown on the card, by its path inside the repository."""

    prompt: str
    path: str


@dataclass(frozen=True)
class Card:
    """The facts of a card."""

    title: str
    base: str | None
    """The id of the base on the Hub, or nothing when it lies only on the trainer's machine."""
    repository: str
    licence: Mapping[str, str]
    family: str
    safe_for_work: bool
    note: str
    triggers: Sequence[str]
    shot: Shot
    """How the first picture is drawn."""
    max_tokens: int | None
    """How long a prompt may be, if not as diffusers has it by default."""
    validation: Mapping[str, object]
    training: Mapping[str, object]
    datasets: Sequence[Mapping[str, object]]
    sheet: str | None = None
    examples: Sequence[Example] = field(default_factory=tuple)
    made: Made = MADE["lora"]
    """What kind of weights it is about."""
    has_average: bool = False
    """Whether the running average of the weights lies beside them."""


def addressed(repository: str) -> str:
    """The id of a repository as somebody else needs it: one without an owner is of whoever uploads it."""
    return repository if "/" in repository else f"{_SOMEBODY}/{repository}"


def readdressed(text: str, before: str, now: str) -> str:
    """A card that was written for one repository, for another one."""
    return text.replace(f'"{addressed(before)}"', f'"{addressed(now)}"')


def render(card: Card) -> str:
    """The card as Markdown with the header that the Hub reads."""
    places = {"base": card.base or "path/to/the/base/model", "repository": card.repository}
    body = _BODY.substitute(
        title=card.title,
        noun=card.made.noun,
        usage=Template(card.made.usage).substitute(places),
        link=f"[{card.base}](https://huggingface.co/{card.base})" if card.base else "a local base model",
        note=f"\n{card.note}\n" if card.note else "",
        sheet=f"\n![before and after]({card.sheet})\n" if card.sheet else "",
        triggers=", ".join(f"`{word}`" for word in card.triggers) or "None: describe what you want to see.",
        given=_given(card),
        average=_AVERAGE if card.has_average else "",
        validation=_listed(card.validation),
        training=_listed(card.training),
        datasets="\n\n".join(f"**{facts['id']}**\n\n{_listed(facts)}" for facts in card.datasets),
    )
    return f"---\n{yaml.safe_dump(_header(card), sort_keys=False, allow_unicode=True)}---\n{body}"


def _given(card: Card) -> str:
    """What the pipeline is called with, an argument in a line."""
    shot, (told, real) = card.shot, card.made.guidance
    values = {
        told: shot.guidance,
        real: shot.real,
        "negative_prompt": repr(shot.negative) if real and shot.real > 1 and shot.negative else None,
        "num_inference_steps": shot.steps,
        "width": shot.width,
        "height": shot.height,
        "max_sequence_length": card.max_tokens,
        "generator": f"torch.Generator().manual_seed({shot.seed})",
    }
    if real == "true_cfg_scale" and shot.real <= 1:
        del values[real]
    lines = [repr(shot.prompt), *card.made.inputs]
    lines += [f"{name}={value}" for name, value in values.items() if name and value is not None]
    return "\n".join(f"    {line}," for line in lines)


def _header(card: Card) -> dict[str, object]:
    rating = "safe-for-work" if card.safe_for_work else "not-for-all-audiences"
    tags = [card.family, f"{card.family}-diffusers", "text-to-image", "image-to-image", "diffusers", "simpletuner"]
    header: dict[str, object] = {
        **card.licence,
        **({"base_model": card.base, "base_model_relation": card.made.relation} if card.base else {}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [*tags, rating, *card.made.tags],
        "inference": True,
    }
    if card.triggers:
        header["instance_prompt"] = card.triggers[0]
    if card.examples:
        header["widget"] = [{"text": one.prompt or " ", "output": {"url": one.path}} for one in card.examples]
    return header


def _listed(facts: Mapping[str, object]) -> str:
    return "\n".join(f"- {name}: `{value}`" for name, value in facts.items())


_SOMEBODY = "your-name"
_AVERAGE = "\nThe folder `ema` holds the running average (EMA) of these weights, under the same names.\n"
