"""The parts of Chroma from a Hub id, a folder or a single file: checked first, then read piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from simpletuner.models import kept as kept_networks
from simpletuner.models.chroma import single_file
from simpletuner.models.flux import loading as of_flux
from simpletuner.models.flux.loading import block_names, empty, part
from simpletuner.models.flux.single_file import bundled
from simpletuner.models.sources import is_file, loading

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
        place = (weights.transformer, weights.transformer_subfolder)
        config, found = part(*place, weights, single_file.FORM)
        return kept_networks.load(
            partial(empty_transformer, config), block_names, found, compute.dtype, pack=pack, kept=kept
        )


def empty_transformer(config: Mapping[str, Any]) -> ChromaTransformer2DModel:
    """A transformer without weights."""
    from diffusers import ChromaTransformer2DModel

    with empty():
        module: ChromaTransformer2DModel = ChromaTransformer2DModel.from_config(dict(config))
    return module.eval()


def load_t5(weights: Weights, compute: Compute, pack: Pack | None = None) -> T5EncoderModel:
    """The text encoder, frozen and on the CPU."""
    source = weights.t5 or weights.base
    with loading("The text encoder", source):
        return of_flux.load_t5(source, weights, compute.dtype, pack, subfolder="text_encoder")


def load_tokenizer(weights: Weights) -> T5Tokenizer:
    """The tokenizer of the text encoder; single files have none, so the one that comes along is used for them."""
    from transformers import AutoTokenizer

    if is_file(weights.base):
        return bundled.tokenizers()[1]
    with loading("The tokenizer", weights.base):
        found: T5Tokenizer = AutoTokenizer.from_pretrained(
            weights.base, subfolder="tokenizer", revision=weights.revision
        )
    return found
