"""The parts of FLUX.1 from a Hub id, a folder or a single file: checked first, and then read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from simpletuner.errors import ModelError
from simpletuner.models import kept as kept_networks
from simpletuner.models.flux.single_file import autoencoder, bundled, encoders, transformer
from simpletuner.models.flux.single_file.parts import scaled
from simpletuner.models.sources import is_file, loading, local_config, part_folder
from simpletuner.models.streaming import Pieces, check, fill
from simpletuner.models.weight_files import folder_contents

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from torch import nn
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    from simpletuner.models.family import Compute, Weights
    from simpletuner.models.flux.single_file.parts import Form
    from simpletuner.models.kept import Kept
    from simpletuner.models.streaming import Pack

    Found = tuple[Mapping[str, Any], Pieces]

Encoder = TypeVar("Encoder", bound="nn.Module")


def load_transformer(
    weights: Weights, compute: Compute, pack: Pack | None = None, kept: Kept | None = None
) -> FluxTransformer2DModel:
    """The frozen transformer, on the CPU; each block is packed as soon as it is complete.

    Args:
        weights: Where it comes from.
        compute: The precision of what is not packed.
        pack: Changes one block in place; nothing is packed without it.
        kept: Where the packed transformer is kept; it is read from there if it is there already.

    Raises:
        ModelError: The weights are not there, not whole, or not those of a FLUX.1.
    """
    with loading("The transformer", weights.transformer):
        config, found = transformer_pieces(weights)
        return kept_networks.load(
            partial(empty_transformer, config), block_names, found, compute.dtype, pack=pack, kept=kept
        )


def empty_transformer(config: Mapping[str, Any]) -> FluxTransformer2DModel:
    """A transformer without weights."""
    from diffusers import FluxTransformer2DModel

    with empty():
        module: FluxTransformer2DModel = FluxTransformer2DModel.from_config(dict(config))
    return module.eval()


def transformer_pieces(weights: Weights) -> Found:
    """The config of the transformer and where its weights are."""
    return part(weights.transformer, weights.transformer_subfolder, weights, transformer.FORM)


def known_config(weights: Weights, form: Form = transformer.FORM) -> Mapping[str, Any]:
    """The config of a transformer that is on this machine; empty where it is not, or cannot be read."""
    source = weights.transformer
    if not is_file(source):
        return local_config(source, weights.transformer_subfolder, weights.revision)
    try:
        return form.of(Path(source).expanduser())[0]
    except ModelError:
        return {}


def block_counts(config: Mapping[str, Any]) -> tuple[int, ...]:
    """How many double and single blocks it has."""
    return tuple(config[name] for name in ("num_layers", "num_single_layers") if name in config)


def block_names(module: FluxTransformer2DModel) -> Sequence[str]:
    """The blocks in the order in which they run."""
    double = [f"transformer_blocks.{number}" for number in range(len(module.transformer_blocks))]
    return [
        *double,
        *(f"single_transformer_blocks.{number}" for number in range(len(module.single_transformer_blocks))),
    ]


def load_autoencoder(weights: Weights, compute: Compute) -> AutoencoderKL:
    """The frozen autoencoder, on the CPU.

    Raises:
        ModelError: The weights are not there, not whole, or not those of FLUX.1's.
    """
    from diffusers import AutoencoderKL

    with loading("The autoencoder", weights.vae):
        config, found = part(weights.vae, "vae", weights, autoencoder.FORM)
        with empty():
            module: AutoencoderKL = AutoencoderKL.from_config(dict(config))
        check(module, found)
        fill(module, found, compute.dtype)
    return module.eval()


def load_clip(source: str, weights: Weights, dtype: torch.dtype, pack: Pack | None = None) -> CLIPTextModel:
    """CLIP's text encoder, frozen and on the CPU; `weights` says which revision and variant of a repository."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config, found = part(source, "text_encoder", weights, encoders.CLIP_FORM)
    with empty():
        module = CLIPTextModel(CLIPTextConfig.from_dict(dict(config)))
    # Some versions of transformers have one level of names more.
    level = "text_model." if any(name.startswith("text_model.") for name, _ in module.named_parameters()) else ""
    named = {level + name: piece for name, piece in found.items()}
    return _filled(module, named, dtype, f"{level}encoder.layers", pack)


def load_t5(
    source: str,
    weights: Weights,
    dtype: torch.dtype,
    pack: Pack | None = None,
    *,
    subfolder: str = "text_encoder_2",
) -> T5EncoderModel:
    """T5's encoder, frozen and on the CPU; `weights` says which revision and variant of a repository."""
    from transformers import T5Config, T5EncoderModel

    config, found = part(source, subfolder, weights, encoders.T5_FORM)
    with empty():
        module = T5EncoderModel(T5Config.from_dict(dict(config)))
    # One table of embeddings under both of its names.
    module.set_input_embeddings(module.shared)
    return _filled(module, found, dtype, "encoder.block", pack)


def _filled(module: Encoder, found: Pieces, dtype: torch.dtype, layers: str, pack: Pack | None) -> Encoder:
    """A text encoder with its weights; each of its layers is packed as soon as it is complete."""
    check(module, found)
    fill(module, found, dtype, blocks=_layers(module, layers), pack=pack)
    return module.eval()


def load_tokenizers(
    source: str, revision: str | None, *, only_local: bool = False
) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """The tokenizers of CLIP and T5; single files have none, so those that come along are used for them."""
    from transformers import AutoTokenizer

    if is_file(source):
        return bundled.tokenizers()
    clip, t5 = (
        AutoTokenizer.from_pretrained(source, subfolder=folder, revision=revision, local_files_only=only_local)
        for folder in ("tokenizer", "tokenizer_2")
    )
    return clip, t5


def scheduler_source(weights: Weights) -> str:
    """Where the folder ``scheduler`` is; for a single file it comes along, and depends on whether it takes guidance."""
    if not is_file(weights.base):
        return weights.base
    config, _ = transformer_pieces(weights)
    return str(bundled.scheduler_folder(takes_guidance=bool(config["guidance_embeds"])))


def part(source: str, subfolder: str, weights: Weights, form: Form) -> Found:
    """The config of a part and where its weights are; of a single file, both from what it holds."""
    if is_file(source):
        return form.of(Path(source).expanduser())
    config, found = in_folder(source, subfolder, weights)
    return config, form.names(found)


def in_folder(source: str, subfolder: str, weights: Weights) -> Found:
    """The config of a part and where its weights are, in diffusers layout."""
    folder = part_folder(source, subfolder, revision=weights.revision, variant=weights.variant)
    found = scaled(folder_contents(folder, weights.variant))
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config, found


def _layers(module: nn.Module, name: str) -> Sequence[str]:
    return [f"{name}.{number}" for number, _ in module.get_submodule(name).named_children()]


def empty() -> Any:
    """A moment in which networks are built without weights; what is not a weight is computed as usual."""
    from accelerate import init_empty_weights

    return init_empty_weights(include_buffers=False)
