"""The parts of Chroma from a Hub id or a folder in diffusers layout: checked first, then read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from simpletuner.errors import ModelError
from simpletuner.models import kept as kept_networks
from simpletuner.models.flux.loading import block_names
from simpletuner.models.flux.single_file.encoders import t5_names
from simpletuner.models.flux.single_file.parts import scaled
from simpletuner.models.sources import is_file, loading, part_folder
from simpletuner.models.streaming import Pieces, check, fill
from simpletuner.models.weight_files import folder_contents

if TYPE_CHECKING:
    from diffusers import ChromaTransformer2DModel
    from transformers import T5EncoderModel, T5Tokenizer

    from simpletuner.models.family import Compute, Weights
    from simpletuner.models.kept import Kept
    from simpletuner.models.streaming import Pack


def load_transformer(
    weights: Weights, compute: Compute, pack: Pack | None = None, kept: Kept | None = None
) -> ChromaTransformer2DModel:
    """The frozen transformer, on the CPU; each block is packed as soon as it is complete.

    Raises:
        ModelError: The weights are not there, not whole, or not those of a Chroma.
    """
    with loading("The transformer", weights.transformer):
        config, found = _part(weights.transformer, weights.transformer_subfolder, weights)
        return kept_networks.load(
            partial(_transformer, config), block_names, found, compute.dtype, pack=pack, kept=kept
        )


def _transformer(config: Mapping[str, Any]) -> ChromaTransformer2DModel:
    """A transformer without weights."""
    from diffusers import ChromaTransformer2DModel

    with _empty():
        module: ChromaTransformer2DModel = ChromaTransformer2DModel.from_config(dict(config))
    return module.eval()


def load_t5(weights: Weights, compute: Compute, pack: Pack | None = None) -> T5EncoderModel:
    """The text encoder, frozen and on the CPU."""
    from transformers import T5Config, T5EncoderModel

    with loading("The text encoder", weights.base):
        config, pieces = _part(weights.base, "text_encoder", weights)
        found = t5_names(pieces)
        with _empty():
            module = T5EncoderModel(T5Config.from_dict(dict(config)))
        # One table of embeddings under both of its names.
        module.set_input_embeddings(module.shared)
        check(module, found)
        layers = [f"encoder.block.{number}" for number in range(len(module.encoder.block))]
        fill(module, found, compute.dtype, blocks=layers, pack=pack)
    return module.eval()


def load_tokenizer(weights: Weights) -> T5Tokenizer:
    """The tokenizer of the text encoder."""
    from transformers import AutoTokenizer

    with loading("The tokenizer", weights.base):
        found: T5Tokenizer = AutoTokenizer.from_pretrained(
            weights.base, subfolder="tokenizer", revision=weights.revision
        )
    return found


def _part(source: str, subfolder: str, weights: Weights) -> tuple[Mapping[str, Any], Pieces]:
    if is_file(source):
        raise ModelError("single files of Chroma are not served. Use a folder in diffusers layout, or an id on the Hub")
    folder = part_folder(source, subfolder, revision=weights.revision, variant=weights.variant)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config, scaled(folder_contents(folder, weights.variant))


def _empty() -> Any:
    """A moment in which networks are built without weights; what is not a weight is computed as usual."""
    from accelerate import init_empty_weights

    return init_empty_weights(include_buffers=False)
