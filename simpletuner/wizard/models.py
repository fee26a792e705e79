"""A model of one's own: what is wrong with it, and which parts a single file leaves to other places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from simpletuner import files
from simpletuner.errors import Problem
from simpletuner.models.families import FAMILIES
from simpletuner.models.family import Sources
from simpletuner.models.sources import is_local, wrong_with

BASE = "pretrained_model_name_or_path"
TRANSFORMER = "pretrained_transformer_model_name_or_path"

PARTS: Mapping[str, str] = MappingProxyType(
    {
        "pretrained_vae_model_name_or_path": "Autoencoder, such as ae.safetensors:",
        "text_encoder_path": "Text encoder CLIP, such as clip_l.safetensors:",
        "pretrained_t5_model_name_or_path": "Text encoder T5, such as t5xxl_fp16.safetensors:",
    }
)
"""The parts that a single file may lack, by the options that name them, and how they are asked for."""

_NO_PARTS: Mapping[str, str] = MappingProxyType({})


def refused(text: str, family: str, environment: Mapping[str, str]) -> str | None:
    """What is wrong with a model to start from, if anything: what the check would say."""
    return _refused(BASE, text, family, text, environment)


def refused_part(option: str, text: str, family: str, base: str, environment: Mapping[str, str]) -> str | None:
    """What is wrong with the place of one of the `PARTS` of a model, if anything."""
    return _refused(option, text, family, base, environment)


def lacking(base: str, family: str, environment: Mapping[str, str]) -> list[str]:
    """Those of the `PARTS` that are not in the file of the base."""
    return [one.where for one in _problems(family, _filled(base, environment)) if one.where in PARTS]


def _refused(option: str, text: str, family: str, base: str, environment: Mapping[str, str]) -> str | None:
    source = _filled(text, environment)
    if not source:
        return "Name a folder, a .safetensors file, or an id on the Hub such as black-forest-labs/FLUX.1-dev."
    if "{env:" in source:  # the check at the end says which name is not set
        return None
    parts = {} if option == BASE else {option: source}
    found = [one.what for one in _problems(family, _filled(base, environment), parts) if one.where == option]
    said = wrong_with(source) or next(iter(found), None)
    if said is not None and said.startswith("is required"):  # in a config, the transformer may be named apart
        return f"{text} holds no transformer; name the file that does."
    return None if said is None else f"{'T' if said.startswith('there ') else said[:1]}{said[1:]}."


def _problems(family: str, base: str, parts: Mapping[str, str] = _NO_PARTS) -> Iterator[Problem]:
    """What the check says of parts that are on this machine."""
    known = FAMILIES.get(family)
    if known is None or not is_local(base) or wrong_with(base):
        return
    given = Sources(
        base=base,
        vae=parts.get("pretrained_vae_model_name_or_path"),
        clip=parts.get("text_encoder_path"),
        t5=parts.get("pretrained_t5_model_name_or_path"),
    )
    yield from known.missing(known.weights(given))


def _filled(text: str, environment: Mapping[str, str]) -> str:
    return str(files.filled(text.strip(), environment, []))
