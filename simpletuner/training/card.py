"""The model card: what somebody who finds the adapter on the Hub needs to know, rendered from the run's own config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Template

import yaml

_BODY = Template("""
# $title

A LoRA for $link, trained with SimpleTuner.
$note
$sheet
## Trigger words

$triggers

## Use it

```python
import torch
from diffusers import FluxPipeline

pipeline = FluxPipeline.from_pretrained("$base", torch_dtype=torch.bfloat16).to("cuda")
pipeline.load_lora_weights("$repository")
image = pipeline($prompt, num_inference_steps=$steps, guidance_scale=$guidance).images[0]
image.save("image.png")
```

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
    prompt: str
    steps: int
    guidance: float
    validation: Mapping[str, object]
    training: Mapping[str, object]
    datasets: Sequence[Mapping[str, object]]
    sheet: str | None = None
    examples: Sequence[Example] = field(default_factory=tuple)


def render(card: Card) -> str:
    """The card as Markdown with the header that the Hub reads."""
    body = _BODY.substitute(
        title=card.title,
        base=card.base or "path/to/the/base/model",
        link=f"[{card.base}](https://huggingface.co/{card.base})" if card.base else "a local base model",
        repository=card.repository,
        note=f"\n{card.note}\n" if card.note else "",
        sheet=f"\n![before and after]({card.sheet})\n" if card.sheet else "",
        triggers=", ".join(f"`{word}`" for word in card.triggers) or "None: describe what you want to see.",
        prompt=repr(card.prompt),
        steps=card.steps,
        guidance=card.guidance,
        validation=_listed(card.validation),
        training=_listed(card.training),
        datasets="\n\n".join(f"**{facts['id']}**\n\n{_listed(facts)}" for facts in card.datasets),
    )
    return f"---\n{yaml.safe_dump(_header(card), sort_keys=False, allow_unicode=True)}---\n{body}"


def _header(card: Card) -> dict[str, object]:
    rating = "safe-for-work" if card.safe_for_work else "not-for-all-audiences"
    tags = [card.family, f"{card.family}-diffusers", "text-to-image", "image-to-image", "diffusers", "simpletuner"]
    header: dict[str, object] = {
        **card.licence,
        **({"base_model": card.base, "base_model_relation": "adapter"} if card.base else {}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [*tags, rating, "lora", "template:sd-lora", "standard"],
        "inference": True,
    }
    if card.triggers:
        header["instance_prompt"] = card.triggers[0]
    if card.examples:
        header["widget"] = [{"text": one.prompt or " ", "output": {"url": one.path}} for one in card.examples]
    return header


def _listed(facts: Mapping[str, object]) -> str:
    return "\n".join(f"- {name}: `{value}`" for name, value in facts.items())
