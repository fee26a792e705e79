"""From which place each part of FLUX.1 comes when the base is a single file, and which parts are then nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from simpletuner.errors import ModelError, Problem
from simpletuner.models.flux.single_file.parts import AUTOENCODER, CLIP, T5, TRANSFORMER, part_of, parts_in
from simpletuner.models.sources import is_file

OPTIONS = {
    TRANSFORMER: "pretrained_transformer_model_name_or_path",
    AUTOENCODER: "pretrained_vae_model_name_or_path",
    CLIP: "text_encoder_path",
    T5: "pretrained_t5_model_name_or_path",
}
"""Where the user says where a part is."""


def source_of(part: str, given: str | None, base: str, repository: str | None) -> str:
    """Where a part comes from: what the user says, else the base, else the repository of the flavour.

    Args:
        part: One of the names in `OPTIONS`.
        given: What the user says of this part.
        base: The base of all parts.
        repository: What stands in for a single file that does not hold the part; None leaves it missing.
    """
    if given is not None:
        return given
    if repository is None or not is_file(base):
        return base
    return base if part in _held(base) else repository


def missing_parts(base: str, sources: Mapping[str, str]) -> Iterator[Problem]:
    """The parts that are not in the single file in which they are looked for, told from the headers of the files.

    Args:
        base: The base of all parts.
        sources: Where each of the parts in `OPTIONS` is looked for.
    """
    for part, source in sources.items():
        path = Path(source).expanduser()
        if not is_file(source) or not path.is_file():
            continue
        option = "pretrained_model_name_or_path" if part == TRANSFORMER and source == base else OPTIONS[part]
        try:
            part_of(path, part)
        except ModelError as error:
            yield Problem(option, _asked_for(part, base) if source == base and _held(base) else str(error).rstrip("."))


def _asked_for(part: str, base: str) -> str:
    return (
        f"is required: '{base}' holds no {part}; name where it is, or set model_flavour to take what is missing from "
        f"the Hub"
    )


def _held(base: str) -> frozenset[str]:
    path = Path(base).expanduser()
    try:
        return parts_in(path) if path.is_file() else frozenset(OPTIONS)
    except ModelError:
        return frozenset()
