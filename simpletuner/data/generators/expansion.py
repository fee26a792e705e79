"""A data set with `conditioning` becomes that data set and one more for each generator that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from simpletuner.complaints import problems
from simpletuner.data import geometry
from simpletuner.data.generators import GENERATORS, Generator
from simpletuner.data.generators.source import Generated
from simpletuner.data.sections import CONDITIONING_TYPES, ConditioningGenerator
from simpletuner.data.sources import DataBackend, DataEntry
from simpletuner.errors import Problem


def expand(entries: Sequence[DataEntry]) -> tuple[tuple[DataEntry, ...], list[Problem]]:
    """All entries and those that generators make of them, and what is wrong with generators.

    What a generator makes stands behind its data set, whose own entry stays as it is. Expanding twice changes nothing.
    """
    expanded: list[DataEntry] = []
    found: list[Problem] = []
    for entry in entries:
        if isinstance(entry, Generated):
            continue
        parts = list(_parts(entry)) if isinstance(entry, DataBackend) else []
        found += [part for part in parts if isinstance(part, Problem)]
        expanded += [entry, *(part for part in parts if isinstance(part, Generated))]
    return tuple(expanded), found


def _parts(entry: DataBackend) -> Iterator[Generated | Problem]:
    """What the generators of one entry make, or what is wrong with them."""
    if entry.conditioning and entry.dataset_type not in _CAN_HAVE_PARTNERS:
        kinds = " and ".join(_CAN_HAVE_PARTNERS)
        yield Problem(_place(entry.id), f"is only for data sets of dataset_type {kinds}; leave it out here")
        return
    for number, spec in enumerate(entry.conditioning):
        namesakes = sum(other.type == spec.type for other in entry.conditioning[:number])
        ending = f"_{namesakes + 1}" if namesakes else ""
        for part in _checked(entry.id, spec):
            made = f"{entry.id}_conditioning_{spec.type}{ending}"
            yield part if isinstance(part, Problem) else _generated(entry, spec, part, made)


def wrong_generators(id: str, given: object) -> Iterator[Problem]:
    """What is wrong with generators in an entry that cannot be read as a whole.

    Args:
        id: Of the entry.
        given: What it has in `conditioning`; what is no generator at all is passed over, and said by whoever reads it.
    """
    for one in given if isinstance(given, (list, tuple)) else (given,):
        try:
            spec = ConditioningGenerator.model_validate(one)
        except ValidationError:
            continue
        yield from (part for part in _checked(id, spec) if isinstance(part, Problem))


def _checked(id: str, spec: ConditioningGenerator) -> Iterator[Generator | Problem]:
    """The generator that is asked for in the entry of this id, or everything that is wrong with it."""
    parts = list(_generator(id, spec))
    generators = [part for part in parts if isinstance(part, Generator)]
    wrong = [part for part in parts if isinstance(part, Problem)]
    wrong += [problem for generator in generators for problem in _misfits(id, spec, generator)]
    yield from wrong or generators


def _generator(id: str, spec: ConditioningGenerator) -> Iterator[Generator | Problem]:
    """The generator that is asked for, or what is wrong with its settings."""
    twice = sorted(set(spec.params) & set(_extra(spec)))
    yield from (Problem(_place(id, spec.type, name), "stands in params too; keep one of the two") for name in twice)
    try:
        name = GENERATORS.check(spec.type)
    except PydanticCustomError as error:
        yield Problem(_place(id, "type"), error.message())
        return
    if name in GENERATORS.later:
        yield Problem(_place(id, "type"), f"'{name}' is not served yet; {GENERATORS.later[name]}")
        return
    section = GENERATORS[name]
    try:
        yield section.model_validate({**_extra(spec), **spec.params})
    except ValidationError as error:
        known = {**section.model_fields, **ConditioningGenerator.model_fields}
        yield from problems(error, known, lambda path: _place(id, spec.type, *map(str, path)), page=_PAGE)


def _misfits(id: str, spec: ConditioningGenerator, generator: Generator) -> Iterator[Problem]:
    """What is wrong although each setting is right by itself."""
    if spec.conditioning_type is None:
        choices = ", ".join(CONDITIONING_TYPES)
        what = f"is required; for {spec.type} it is mostly {generator.usual}, and the choices are {choices}"
        yield Problem(_place(id, spec.type, "conditioning_type"), what)
    if spec.source_dataset_id not in (None, id):
        what = f"pairs are made out of '{id}' itself; leave it out, or move conditioning to its entry"
        yield Problem(_place(id, spec.type, "source_dataset_id"), what)
    for module, remedy in missing(generator):
        yield Problem(_place(id, "type"), f"'{spec.type}' needs {module}, which is not installed; run: {remedy}")


def missing(generator: Generator) -> Iterator[tuple[str, str]]:
    """The modules that a generator needs and that are not installed, each with the command that installs it."""
    yield from ((module, remedy) for module, remedy in generator.needs.items() if find_spec(module) is None)


def _generated(entry: DataBackend, spec: ConditioningGenerator, generator: Generator, id: str) -> Generated:
    """The entry that a user could have written, if these pictures were on a disk; its values are valid already."""
    values = {name: entry.__dict__[name] for name in _SHARED}
    own = {
        "id": id,
        "dataset_type": "conditioning",
        "conditioning_type": spec.conditioning_type,
        "source_dataset_id": entry.id,
        "cache_dir_vae": entry.cache_dir_vae and entry.cache_dir_vae.with_name(id),
        "captions": spec.captions,
    }
    parts = {"made_from": entry, "generator": generator}
    # Only its own options count as given: whatever there is to say about the others is said about the entry itself.
    return Generated.model_construct(set(own), **{**values, **_captions(spec.captions), **own, **parts})


def _captions(captions: bool | str | tuple[str, ...] | None) -> Mapping[str, Any]:
    """The options that give a data set these captions and no others; none of them where it has its image's."""
    if captions is None or captions is True:
        return {}
    prompts = ("",) if captions is False else (captions,) if isinstance(captions, str) else captions
    return {
        "caption_strategy": "instanceprompt",
        "instance_prompt": prompts,
        "prepend_instance_prompt": False,
        "only_instance_prompt": True,
        "caption_fallback": None,
        "caption_shuffle": None,
        "caption_pipeline": None,
    }


def _extra(spec: ConditioningGenerator) -> Mapping[str, Any]:
    """Settings that stand beside `type` instead of in `params`."""
    return {name: value for name, value in (spec.model_extra or {}).items() if value is not None}


def _place(id: str, *path: str) -> str:
    return " › ".join([f"data set '{id}'", "conditioning", *path])


_CAN_HAVE_PARTNERS = ("image", "eval")

_CAPTIONS = {
    *("caption_strategy", "caption_extension", "caption_fallback", "caption_shuffle", "caption_pipeline"),
    *("instance_prompt", "prepend_instance_prompt", "only_instance_prompt", "disable_multiline_split"),
}

_KNOWLEDGE = {"metadata_backend", "parquet"}

_CACHES = {"text_embeds", "image_embeds", "vae_cache_ondemand", "vae_cache_disable", "vae_cache_clear_each_epoch"}

_GEOMETRY = {field.name for field in fields(geometry.Rules)} & set(DataBackend.model_fields)

_SHARED = tuple(sorted(_CAPTIONS | _KNOWLEDGE | _CACHES | _GEOMETRY))
"""The options that pictures have in common with the images that they are made of."""

_PAGE = "documentation/DATALOADER.md"
