"""Which linear layers of the transformer get an adapter: the named presets of `flux_lora_target`.

An entry matches a module whose name equals it or ends with it after a dot, as in PEFT.
"""

from __future__ import annotations

from simpletuner.schema import Choice


class Preset(tuple[str, ...]):
    """Module name endings, with a meaning that is shown to users."""

    def __new__(cls, meaning: str, *endings: str) -> Preset:
        """Make a preset; `meaning` becomes its docstring."""
        made = super().__new__(cls, endings)
        made.__doc__ = meaning
        return made


_IMAGE = ("to_k", "to_q", "to_v", "to_out.0", "to_qkv")
_TEXT = ("add_k_proj", "add_q_proj", "add_v_proj", "add_qkv_proj", "to_add_out")
_TEXT_FEED_FORWARD = ("ff_context.net.0.proj", "ff_context.net.2")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", *_TEXT_FEED_FORWARD, "proj_mlp", "proj_out")
_MODULATION = ("norm.linear", "norm1.linear", "norm1_context.linear")

PRESETS: Choice[Preset] = Choice(
    "LoRA target",
    {
        "all": Preset("The attention layers of image and text in every block.", *_IMAGE, *_TEXT),
        "all+ffs": Preset("All attention and all feed-forward layers.", *_IMAGE, *_TEXT, *_FEED_FORWARD),
        "mmdit": Preset("Only the attention layers that see the image.", *_IMAGE),
        "context": Preset("Only the attention layers that see the text.", *_TEXT),
        "context+ffs": Preset("The text's attention and feed-forward layers.", *_TEXT, *_TEXT_FEED_FORWARD),
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
    },
    later={
        "all+ffs+embedder": "use all+ffs",
        "all+ffs+embedder+controlnet": "use all+ffs",
        "controlnet": "use all, and train a LoRA without ControlNet",
    },
)
