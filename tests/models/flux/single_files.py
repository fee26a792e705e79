"""Single files as people have them, written from parts in diffusers layout with names spelled out here once more."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import tiny
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

OUTSIDE = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "proj_out": "final_layer.linear",
}


def bfl_transformer(state):
    """A transformer's weights as Black Forest Labs name and join them."""
    made = {}
    for kind in ("weight", "bias"):
        for name, other in OUTSIDE.items():
            if f"{name}.{kind}" in state:
                made[f"{other}.{kind}"] = state[f"{name}.{kind}"]
        scale, shift = state[f"norm_out.linear.{kind}"].chunk(2)
        made[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    for number in counted(state, r"transformer_blocks\.(\d+)\.norm1\.linear\.weight"):
        made |= double_block(
            {n.split(".", 2)[2]: t for n, t in state.items() if n.startswith(f"transformer_blocks.{number}.")}, number
        )
    for number in counted(state, r"single_transformer_blocks\.(\d+)\.proj_out\.weight"):
        made |= single_block(
            {n.split(".", 2)[2]: t for n, t in state.items() if n.startswith(f"single_transformer_blocks.{number}.")},
            number,
        )
    return {name: tensor.contiguous().clone() for name, tensor in made.items()}


def counted(state, pattern):
    return [found[1] for name in state if (found := re.fullmatch(pattern, name))]


def double_block(block, number):
    made = {}
    for kind in ("weight", "bias"):
        sides = (
            ("img", "norm1", "to_q to_k to_v", "to_out.0", "ff"),
            ("txt", "norm1_context", "add_q_proj add_k_proj add_v_proj", "to_add_out", "ff_context"),
        )
        for side, norm, three, out, ff in sides:
            made[f"{side}_mod.lin.{kind}"] = block[f"{norm}.linear.{kind}"]
            made[f"{side}_attn.qkv.{kind}"] = torch.cat([block[f"attn.{one}.{kind}"] for one in three.split()])
            made[f"{side}_attn.proj.{kind}"] = block[f"attn.{out}.{kind}"]
            made[f"{side}_mlp.0.{kind}"] = block[f"{ff}.net.0.proj.{kind}"]
            made[f"{side}_mlp.2.{kind}"] = block[f"{ff}.net.2.{kind}"]
    for side, query, key in (("img", "norm_q", "norm_k"), ("txt", "norm_added_q", "norm_added_k")):
        made[f"{side}_attn.norm.query_norm.scale"] = block[f"attn.{query}.weight"]
        made[f"{side}_attn.norm.key_norm.scale"] = block[f"attn.{key}.weight"]
    return {f"double_blocks.{number}.{name}": tensor for name, tensor in made.items()}


def single_block(block, number):
    made = {}
    for kind in ("weight", "bias"):
        made[f"modulation.lin.{kind}"] = block[f"norm.linear.{kind}"]
        four = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        made[f"linear1.{kind}"] = torch.cat([block[f"{one}.{kind}"] for one in four])
        made[f"linear2.{kind}"] = block[f"proj_out.{kind}"]
    made["norm.query_norm.scale"] = block["attn.norm_q.weight"]
    made["norm.key_norm.scale"] = block["attn.norm_k.weight"]
    return {f"single_blocks.{number}.{name}": tensor for name, tensor in made.items()}


def chroma_file(state):
    """The weights under the names that the makers of Chroma gave them."""
    flux = dict(state)
    nothing = {"weight": torch.zeros(2, 1), "bias": torch.zeros(2)}
    for number in counted(state, r"transformer_blocks\.(\d+)\.attn\.to_q\.weight"):
        for norm in ("norm1", "norm1_context"):
            flux |= {f"transformer_blocks.{number}.{norm}.linear.{kind}": one for kind, one in nothing.items()}
    for number in counted(state, r"single_transformer_blocks\.(\d+)\.proj_out\.weight"):
        flux |= {f"single_transformer_blocks.{number}.norm.linear.{kind}": one for kind, one in nothing.items()}
    flux |= {f"norm_out.linear.{kind}": one for kind, one in nothing.items()}
    made = bfl_transformer(flux)
    absent = ("_mod.lin", "modulation.lin", "adaLN_modulation")
    made = {name: one for name, one in made.items() if not any(part in name for part in absent)}
    for name, one in state.items():
        if name.startswith("distilled_guidance_layer."):
            short = name.replace("linear_1", "in_layer").replace("linear_2", "out_layer")
            made[short.replace("weight", "scale") if ".norms." in short else short] = one
    return made


def bfl_autoencoder(state):
    """An autoencoder's weights as Black Forest Labs name them; levels of the decoder count from the other end."""
    levels = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("decoder.up_blocks."))
    made = {}
    for name, tensor in state.items():
        short = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
        for old, new in (
            ("down_blocks.", "down."),
            (".resnets.", ".block."),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("conv_shortcut", "nin_shortcut"),
            ("mid_block.block.0", "mid.block_1"),
            ("mid_block.block.1", "mid.block_2"),
            ("mid_block.attentions.0", "mid.attn_1"),
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
            ("conv_norm_out", "norm_out"),
        ):
            short = short.replace(old, new)
        is_pointwise = "attn_1" in short and tensor.dim() == 2
        made[short] = tensor[:, :, None, None] if is_pointwise else tensor
    return {name: tensor.contiguous().clone() for name, tensor in made.items()}


def in_fp8(state, *, scaled, marked=("scale_weight", "scaled_fp8")):
    """Matrices in fp8; scaled ones fill its range, and a factor of their own leads back."""
    made = {}
    for name, tensor in state.items():
        if tensor.dim() < 2:
            made[name] = tensor
            continue
        factor = tensor.abs().max() / 448 if scaled else torch.tensor(1.0)
        made[name] = (tensor / factor).to(torch.float8_e4m3fn)
        if scaled:
            made[f"{name.removesuffix('.weight')}.{marked[0]}"] = factor.float()
            made[f"{name.removesuffix('.weight')}.scale_input"] = torch.tensor(1.0)
    if scaled and len(marked) > 1:
        made[marked[1]] = torch.zeros(2).to(torch.float8_e4m3fn)
    return made


def written(path: Path, state, **metadata) -> Path:
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path, metadata or None)
    return path


def from_file(path):
    return replace(tiny.weights(path), transformer_subfolder="")


def assert_equal(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def assert_same_words(one, other):
    with torch.no_grad():
        first, second = (pipeline.encode_prompt("a red ring", None)[:2] for pipeline in (one, other))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def encoders():
    torch.manual_seed(6)
    clip = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1,
        hidden_act="quick_gelu", eos_token_id=2, max_position_embeddings=77,
    ))  # fmt: skip
    t5 = T5EncoderModel(T5Config(
        vocab_size=32128, d_model=24, d_kv=16, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu",
    ))  # fmt: skip
    return clip.eval(), t5.eval()


def clip_file(clip):
    state = {f"text_model.{name.removeprefix('text_model.')}": one for name, one in clip.state_dict().items()}
    return {**state, "logit_scale": torch.tensor(4.6), "text_projection.weight": torch.eye(64)}


def t5_file(t5):
    return {name: one.clone() for name, one in t5.state_dict().items() if "embed_tokens" not in name}


def sparse(path, state):
    """A file with the header of these weights, and room for them that takes none on the disk."""
    header, end = {}, 0
    for name, one in state.items():
        size = one.numel() * one.element_size()
        header[name] = {"dtype": "BF16", "shape": list(one.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path
