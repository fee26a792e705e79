"""What a run makes, as its model card tells of it: the kind of weights, and how diffusers uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simpletuner.models import controlling, families
from simpletuner.models.sources import is_local, looks_like_path

if TYPE_CHECKING:
    from simpletuner.models.options import Model


@dataclass(frozen=True)
class Made:
    """One kind of result."""

    noun: str
    relation: str
    """What it is to its base, in the Hub's words."""
    tags: tuple[str, ...]
    usage: str
    """Lines of Python that make `pipeline`; ``$base`` and ``$repository`` stand for their names."""
    inputs: tuple[str, ...] = ()
    """What `pipeline` is given besides the prompt and how to draw it."""
    guidance: tuple[str, str] = ("guidance_scale", "true_cfg_scale")
    """What `pipeline` calls the guidance that the model is told, and real guidance; empty for what it does not know."""


_ADAPTER = """\
from diffusers import FluxPipeline

pipeline = FluxPipeline.from_pretrained("$base", torch_dtype=torch.bfloat16).to("cuda")
pipeline.load_lora_weights("$repository", weight_name="pytorch_lora_weights.safetensors")"""

_LYCORIS = """\
from diffusers import FluxPipeline
from huggingface_hub import hf_hub_download
from lycoris import create_lycoris_from_weights  # pip install lycoris-lora

pipeline = FluxPipeline.from_pretrained("$base", torch_dtype=torch.bfloat16)
weights = hf_hub_download("$repository", "pytorch_lora_weights.safetensors")
network, _ = create_lycoris_from_weights(1.0, weights, pipeline.transformer)
network.merge_to()
pipeline.to("cuda")"""

_WHOLE = """\
from diffusers import FluxPipeline, FluxTransformer2DModel

transformer = FluxTransformer2DModel.from_pretrained(
    "$repository", subfolder="transformer", torch_dtype=torch.bfloat16
)
pipeline = FluxPipeline.from_pretrained("$base", transformer=transformer, torch_dtype=torch.bfloat16).to("cuda")"""

_CONTROLNET = """\
from diffusers import FluxControlNetModel, FluxControlNetPipeline
from diffusers.utils import load_image

controlnet = FluxControlNetModel.from_pretrained("$repository", subfolder="controlnet", torch_dtype=torch.bfloat16)
pipeline = FluxControlNetPipeline.from_pretrained(
    "$base", controlnet=controlnet, torch_dtype=torch.bfloat16
).to("cuda")"""

_CONTROLNET_ADAPTER = """\
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxTransformer2DModel
from diffusers.utils import load_image

transformer = FluxTransformer2DModel.from_pretrained("$base", subfolder="transformer", torch_dtype=torch.bfloat16)
controlnet = {start}.to(torch.bfloat16)
controlnet.load_lora_adapter("$repository", prefix="controlnet", weight_name="pytorch_lora_weights.safetensors")
pipeline = FluxControlNetPipeline.from_pretrained(
    "$base", transformer=transformer, controlnet=controlnet, torch_dtype=torch.bfloat16
).to("cuda")"""

_FOLLOWS = ('control_image=load_image("picture.png")',)
_CHANGES = ('image=load_image("picture.png")',)
_FILLS = ('image=load_image("picture.png")', 'mask_image=load_image("mask.png")')

MADE: Mapping[str, Made] = {
    "lora": Made("A LoRA", "adapter", ("lora", "template:sd-lora", "standard"), _ADAPTER),
    "lycoris": Made("A LyCORIS adapter", "adapter", ("lora", "lycoris"), _LYCORIS),
    "full": Made("A fine-tuned transformer", "finetune", ("full",), _WHOLE),
}
"""By the value of `model_type`, and of `lora_type` for another kind of adapter."""

_ONLY_TOLD = ("guidance_scale", "")
_ONLY_REAL = ("", "guidance_scale")

_CLASSES: Mapping[str, Mapping[str, str]] = {
    "chroma": {"FluxPipeline": "ChromaPipeline", "FluxTransformer2DModel": "ChromaTransformer2DModel"},
}
"""What diffusers calls its parts for a model family, instead of the names for FLUX.1."""


def made(model: Model, lora_type: str = "standard") -> Made:
    """What a run with these options makes."""
    is_lora = model.model_type == "lora"
    found = MADE["lycoris" if is_lora and lora_type == "lycoris" else model.model_type]
    for ours, theirs in _CLASSES.get(model.model_family, {}).items():
        found = replace(found, usage=found.usage.replace(ours, theirs), guidance=_ONLY_REAL)
    if model.controlnet:
        noun = "A LoRA on a ControlNet" if is_lora else "A ControlNet"
        usage = _CONTROLNET_ADAPTER.format(start=_start(model)) if is_lora else _CONTROLNET
        return replace(found, noun=noun, tags=(*found.tags, "controlnet"), usage=usage, inputs=_FOLLOWS)
    if model.control:
        usage = _in(found, "FluxControlPipeline")
        return replace(found, tags=(*found.tags, "control"), usage=usage, inputs=_FOLLOWS, guidance=_ONLY_TOLD)
    if families.takes_references(model.model_family, model.model_flavour):
        usage = _in(found, "FluxKontextPipeline")
        return replace(found, tags=(*found.tags, "image-editing"), usage=usage, inputs=_CHANGES)
    if families.fills(model.model_family, model.model_flavour):
        usage = _in(found, "FluxFillPipeline")
        return replace(found, tags=(*found.tags, "inpainting"), usage=usage, inputs=_FILLS, guidance=_ONLY_TOLD)
    return found


def _in(found: Made, pipeline: str) -> str:
    """The same with another pipeline, and with what reads pictures."""
    first, _, rest = found.usage.replace("FluxPipeline", pipeline).partition("\n")
    return f"{first}\nfrom diffusers.utils import load_image\n{rest}"


def _start(model: Model) -> str:
    """The ControlNet that an adapter was put on."""
    chosen = controlling.plan(model)
    if chosen is None or chosen.source is not None:
        source = model.controlnet_model_name_or_path or ""
        is_here = is_local(source) or looks_like_path(source)
        return f'FluxControlNetModel.from_pretrained("{"path/to/the/controlnet" if is_here else source}")'
    double = controlling.DOUBLE_BLOCKS if chosen.double_blocks is None else chosen.double_blocks
    single = controlling.SINGLE_BLOCKS if chosen.single_blocks is None else chosen.single_blocks
    return f"FluxControlNetModel.from_transformer(transformer, num_layers={double}, num_single_layers={single})"
