"""What a model sees besides the prompt, and whether the data sets have it: pictures to follow, to change, to fill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from simpletuner.data.entries import where
from simpletuner.data.generators.expansion import expand
from simpletuner.data.plan import conditions
from simpletuner.data.sources import DataBackend, DataEntry
from simpletuner.errors import Problem
from simpletuner.models import controlling, families
from simpletuner.models.references import KINDS

if TYPE_CHECKING:
    from simpletuner.config import RunConfig


def problems(config: RunConfig) -> Iterator[Problem]:
    """Pictures that are missing, that nothing looks at, and what does not go together with looking at them."""
    entries = expand(config.data)[0]
    yield from _following(config, entries)
    yield from _filling(config, entries)
    yield from _changing(config, entries)


def _following(config: RunConfig, entries: Sequence[DataEntry]) -> Iterator[Problem]:
    """What does not go with a picture that is followed, and images without exactly one."""
    model = config.model
    hides = config.objective.flux_attention_masked_training or families.masks_prompts(model.model_family)
    can = families.takes_controlnet(model.model_family, model.model_flavour)
    yield from controlling.conflicts(model, config.adapter, takes_controlnet=can, masks_prompt=hides)
    if not (model.controlnet or model.control):
        return
    draws = model.controlnet and config.data_defaults.conditioning_multidataset_sampling != "combined"
    for entry, count in _partners(entries, controlling.KIND):
        if count == 0:
            yield Problem(where(entry), _NOTHING_TO_FOLLOW)
        elif count > 1 and not draws:
            advice = "leave one, or set conditioning_multidataset_sampling to random" if model.controlnet else _LEAVE
            yield Problem(where(entry), f"has {count} pictures to follow for each image, and one is followed; {advice}")


def _filling(config: RunConfig, entries: Sequence[DataEntry]) -> Iterator[Problem]:
    """Images without exactly one mask, for a model that fills what masks cover."""
    if families.fills(config.model.model_family, config.model.model_flavour):
        for entry, count in _partners(entries, "mask"):
            if count != 1:
                yield Problem(where(entry), f"has {count} masks for each image; {_LEAVE}" if count else _NO_MASK)


def _changing(config: RunConfig, entries: Sequence[DataEntry]) -> Iterator[Problem]:
    """Pictures to look at for a model that cannot, and none for one that has to."""
    model = config.model
    given = [one for one in entries if isinstance(one, DataBackend) and one.conditioning_type in KINDS]
    takes = families.takes_references(model.model_family, model.model_flavour)
    if takes and not given:
        yield Problem(
            "model_flavour",
            f"'{model.model_flavour}' changes pictures, and no data set has any to start from; add one with "
            f"conditioning_type reference_strict, or use the flavour dev",
        )
    for entry in given:
        is_followed = entry.conditioning_type == controlling.KIND
        if not (takes or (is_followed and (model.controlnet or model.control))):
            option = "controlnet: true" if is_followed else "model_flavour kontext"
            what = f"'{entry.conditioning_type}' is for {option}; set that, or leave these images out"
            yield Problem(where(entry, "conditioning_type"), what)


def _partners(entries: Sequence[DataEntry], kind: str) -> Iterator[tuple[DataBackend, int]]:
    """Every data set of images, with the number of conditioning data sets of this kind that belong to it."""
    known = conditions(entries)
    for entry in entries:
        if isinstance(entry, DataBackend) and entry.dataset_type in {"image", "eval"}:
            yield entry, sum(one.conditioning_type == kind for one in known.get(entry.id, ()))


_LEAVE = "leave one"
_NOTHING_TO_FOLLOW = (
    'has no pictures to follow; add "conditioning": {"type": "canny"} to it, or a data set with conditioning_type '
    "controlnet"
)
_NO_MASK = (
    'has no masks that say what is to be filled; add "conditioning": {"type": "random_masks"} to it, or a data set '
    "with conditioning_type mask"
)
