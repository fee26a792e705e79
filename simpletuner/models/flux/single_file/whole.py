"""From which place each part of FLUX.1 comes when the base is a single file, and which parts are then nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError, Problem
from simpletuner.models.family import Weights
from simpletuner.models.flux import inputs
from simpletuner.models.flux.single_file.parts import AUTOENCODER, CLIP, T5, TRANSFORMER, part_of, parts_in
from simpletuner.models.sources import is_file, is_folder, local_config, part_folder, wrong_with
from simpletuner.models.weight_files import folder_contents

if TYPE_CHECKING:
    from simpletuner.models.family import Sources
    from simpletuner.models.flavours import Flavour

OPTIONS = {
    TRANSFORMER: "pretrained_transformer_model_name_or_path",
    AUTOENCODER: "pretrained_vae_model_name_or_path",
    CLIP: "text_encoder_path",
    T5: "pretrained_t5_model_name_or_path",
}
"""Where the user says where a part is."""
_BASE = "pretrained_model_name_or_path"


def located(given: Sources, flavours: Mapping[str, Flavour], usual: str) -> Weights:
    """Where every part comes from; a flavour beside a single file gives the parts that the file does not hold.

    Args:
        given: What the user says.
        flavours: Those of the family.
        usual: The one that is meant where the user names neither a flavour nor a base.
    """
    flavour = given.flavour or (usual if given.base is None else None)
    repository = flavours[flavour].repository if flavour is not None else None
    base = repository if given.base is None else given.base
    assert base is not None
    return Weights(
        base=base,
        transformer=_source(TRANSFORMER, given.transformer, base, repository),
        transformer_subfolder=_folder(given),
        vae=_source(AUTOENCODER, given.vae, base, repository),
        revision=given.revision,
        variant=given.variant,
        flavour=flavour,
        clip=_source(CLIP, given.clip, base, repository),
        t5=_source(T5, given.t5, base, repository),
    )


def _source(part: str, given: str | None, base: str, repository: str | None) -> str:
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


def _folder(given: Sources) -> str:
    """The folder of the transformer: what the user says of another place than the base; none means its top."""
    if given.transformer is None:
        return "transformer"
    return "" if given.transformer_subfolder.lower() in {"", "none"} else given.transformer_subfolder


def missing_parts(base: str, sources: Mapping[str, str], *, own_sign: str = "") -> Iterator[Problem]:
    """The parts that are not in the single file in which they are looked for, told from the headers of the files.

    Args:
        base: The base of all parts.
        sources: Where each of the parts in `OPTIONS` is looked for.
        own_sign: As `part_of` takes it.
    """
    for part, source in sources.items():
        path = Path(source).expanduser()
        if not is_file(source) or wrong_with(source):  # which is told by itself
            continue
        option = _BASE if part == TRANSFORMER and source == base else OPTIONS[part]
        try:
            part_of(path, part, own_sign=own_sign)
        except ModelError as error:
            yield Problem(option, _asked_for(part, base) if source == base and _held(base) else str(error).rstrip("."))


def torn_folders(
    base: str, places: Mapping[str, tuple[str, str]], variant: str | None, network: str
) -> Iterator[Problem]:
    """Parts in folders on this machine that are not whole, or of another family, told from the headers of the files.

    A text encoder or autoencoder that is not there at all may not be needed: what it makes may be cached.

    Args:
        base: The base of all parts.
        places: Where each of the parts in `OPTIONS` is looked for, with the folder inside that place.
        variant: That of the weight files.
        network: The class of the transformer in diffusers.
    """
    for part, (source, subfolder) in places.items():
        folder = part_folder(source, subfolder) if is_folder(source) else None
        if folder is None or not (folder.is_dir() or part == TRANSFORMER):
            continue
        said = _other_class(source, subfolder, {**_CLASSES, TRANSFORMER: network}[part])
        if said := said or _torn(folder, variant):
            yield Problem(_BASE if source == base else OPTIONS[part], said)


def _other_class(source: str, subfolder: str, wanted: str) -> str | None:
    """What a folder holds instead; of encoders, several classes have the weights that are wanted."""
    config = local_config(source, subfolder, None)
    found = str(config.get("_class_name") or (config.get("architectures") or [wanted])[0])
    if found == wanted or (wanted in _CLASSES.values() and found.startswith(wanted) and "_class_name" not in config):
        return None
    if wanted in _CLASSES.values():
        return f"'{source}' holds a {found}, and this part of the model has to be a {wanted}; name another place"
    return f"'{source}' holds a {found}, and this family is trained on a {wanted}; set model_family, or use another"


_CLASSES = {AUTOENCODER: "AutoencoderKL", CLIP: "CLIP", T5: "T5"}
"""The classes of parts, or how those of encoders begin, as their configs name them."""


def wrong_codec(weights: Weights, config: Mapping[str, Any]) -> Iterator[Problem]:
    """An image encoder that is on this machine and of another model than this config of a transformer."""
    if weights.vae == weights.base or is_file(weights.vae):  # what a single file holds is told by its tensors
        return
    if said := inputs.wrong_codec(config, local_config(weights.vae, "vae", weights.revision)):
        yield Problem(OPTIONS[AUTOENCODER], f"'{weights.vae}' {said}")


def _torn(folder: Path, variant: str | None) -> str | None:
    try:
        folder_contents(folder, variant)
    except ModelError as error:
        return str(error).rstrip(".")
    return None


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
