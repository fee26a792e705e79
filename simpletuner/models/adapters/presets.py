"""Which linear layers of the transformer get an adapter: the named presets of `flux_lora_target`.

An entry matches a module whose name equals it or ends with it after a dot, as in PEFT.
"""

from __future__ import annotations

from collections.abc import Sequence

from simpletuner.schema import Choice


class Preset(tuple[str, ...]):
    """Module name endings, with a meaning that is shown to users."""

    def __new__(cls, meaning: str, *endings: str) -> Preset:
        """Make a preset; `meaning` becomes its docstring."""
        made = super().__new__(cls, endings)
        made.__doc__ = meaning
        return made


_IMAGE = ("to_k", "to_q", "to_v", "to_out.0", "to_qkv")
_TEXT = ("add_k_proj", "add_q_proj", "add_v_proj", "add_qkv_proj", "to_added_qkv", "to_add_out")
_TEXT_FEED_FORWARD = ("ff_context.net.0.proj", "ff_context.net.2")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", *_TEXT_FEED_FORWARD, "proj_mlp", "proj_out")
_CONTROLNET = (
    "controlnet_x_embedder",
    *(f"controlnet_blocks.{number}" for number in range(19)),
    *(f"controlnet_single_blocks.{number}" for number in range(38)),
)
FUSED = ("to_qkv", "add_qkv_proj", "to_added_qkv")
"""What joined projections are called, here or elsewhere; the layers of an adapter have the names of their parts."""
_MODULATION = ("norm.linear", "norm1.linear", "norm1_context.linear")

PRESETS: Choice[Preset] = Choice(
    "LoRA target",
    {
        "all": Preset("The attention layers of image and text in every block.", *_IMAGE, *_TEXT),
        "all+ffs": Preset("All attention and all feed-forward layers.", *_IMAGE, *_TEXT, *_FEED_FORWARD),
        "mmdit": Preset("Only the attention layers that see the image.", *_IMAGE),
        "context": Preset("Only the attention layers that see the text.", *_TEXT),
        "context+ffs": Preset("The text's attention and feed-forward layers.", *_TEXT, *_TEXT_FEED_FORWARD),
        "all+ffs+embedder": Preset(
            "All attention and all feed-forward layers, and the layer that takes the image in.",
            "x_embedder",
            *_IMAGE,
            *_TEXT,
            *_FEED_FORWARD,
        ),
        "tiny": Preset(
            "Two layers in the middle: a very small file that can still hold a style or a face.",
            "single_transformer_blocks.7.proj_out",
            "single_transformer_blocks.20.proj_out",
        ),
        "nano": Preset("A single layer: the smallest file.", "single_transformer_blocks.7.proj_out"),
        "ai-toolkit": Preset(
            "All attention, feed-forward and modulation layers, the set that ai-toolkit trains.",
            *_IMAGE,
            *_TEXT,
            *_FEED_FORWARD,
            *_MODULATION,
        ),
        "controlnet": Preset(
            "The layers that only a ControlNet has: those that take the picture in, and those that speak to the model.",
            *_CONTROLNET,
        ),
        "all+ffs+embedder+controlnet": Preset(
            "The layers that only a ControlNet has, and all+ffs+embedder of it.",
            "x_embedder",
            *_IMAGE,
            *_TEXT,
            *_FEED_FORWARD,
            *_CONTROLNET,
        ),
    },
)

SLIDER: Preset = Preset("The layers that slider adapters change.", *_IMAGE)

KINDS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}
"""The kinds of blocks, and where they are in the network."""

_DOUBLE = r"^transformer_blocks\.\d+\."
_SINGLE = r"^single_transformer_blocks\.\d+\."

CLASSES = {
    "img_attn_dim": rf"{_DOUBLE}attn\.(to_q|to_k|to_v|to_qkv|to_out\.0)$",
    "txt_attn_dim": rf"{_DOUBLE}attn\.(add_[qkv]_proj|add_qkv_proj|to_added_qkv|to_add_out)$",
    "img_mlp_dim": rf"{_DOUBLE}ff\.",
    "txt_mlp_dim": rf"{_DOUBLE}ff_context\.",
    "img_mod_dim": rf"{_DOUBLE}norm1\.linear$",
    "txt_mod_dim": rf"{_DOUBLE}norm1_context\.linear$",
    "single_dim": rf"{_SINGLE}(attn\.to_(q|k|v|qkv)|proj_mlp|proj_out)$",
    "single_mod_dim": rf"{_SINGLE}norm\.linear$",
}
"""The classes of layers that sd-scripts gives ranks of their own, by the options that do it."""

EMBEDDERS = {
    "img_in": ("x_embedder",),
    "time_in": ("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2"),
    "vector_in": ("time_text_embed.text_embedder.linear_1", "time_text_embed.text_embedder.linear_2"),
    "guidance_in": ("time_text_embed.guidance_embedder.linear_1", "time_text_embed.guidance_embedder.linear_2"),
    "txt_in": ("context_embedder",),
}
"""The layers before the blocks, in the order of `in_dims`."""


def matches(name: str, endings: Sequence[str]) -> bool:
    """Whether a layer is one of those: its name is equal to an entry, or ends with it after a dot."""
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)
