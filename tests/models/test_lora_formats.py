"""A LoRA adds the same to every weight in whatever format it is written and read."""

import itertools
import json

import adapters
import pytest
import torch
from diffusers import ChromaTransformer2DModel, FluxControlNetModel, FluxTransformer2DModel

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats import FORMATS, READERS, decode, detect
from simpletuner.models.adapters.formats.comparing import TOLERANCE, compare
from simpletuner.models.adapters.formats.diffusers import SETTINGS
from simpletuner.models.adapters.formats.fitting import shapes
from simpletuner.models.adapters.formats.neutral import Lora, LowRank

KINDS = {
    "plain": {},
    "alpha": {"alpha": lambda number: 1.0},
    "alphas that are no powers of two": {"alpha": lambda number: 3.0 + number % 5},
    "different ranks": {"rank": lambda number: 1 + number % 4, "alpha": lambda number: 2.0},
    "only q and v": {"only": lambda name: name.endswith(("to_q", "to_v", "q_proj", "v_proj", ".q", ".v"))},
    "only the feed-forward of single blocks": {"only": lambda name: name.endswith("proj_mlp")},
    "q and v with different ranks": {
        "only": lambda name: name.endswith(("to_q", "to_v")),
        "rank": lambda number: 2 + number % 3,
    },
    "fp16": {"dtype": torch.float16, "alpha": lambda number: 3.0},
    "bf16": {"dtype": torch.bfloat16, "alpha": lambda number: 6.0},
    "DoRA": {"magnitude": True, "alpha": lambda number: 2.0},
}


def through(lora, name):
    tensors, header = FORMATS[name].write(lora)
    assert detect(tensors) == name
    return decode(tensors, header)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there, further", itertools.product(FORMATS, repeat=2))
def test_the_same_weights_come_back_from_every_pair_of_formats(kind, there, further):
    lora = adapters.adapter(**KINDS[kind])
    found = through(through(lora, there), further)
    assert found.layers.keys() == lora.layers.keys()
    for name, layer in lora.layers.items():
        torch.testing.assert_close(found.layers[name].delta(), layer.delta(), rtol=2e-5, atol=2e-6)
    assert compare(lora, found).largest < TOLERANCE


@pytest.mark.parametrize("name", FORMATS)
def test_dora_lengths_come_back_bit_for_bit(name):
    lora = adapters.adapter(magnitude=True)
    found = through(lora, name)
    assert all(torch.equal(found.layers[one].magnitude, layer.magnitude) for one, layer in lora.layers.items())


@pytest.mark.parametrize("name", ("kohya", "comfyui"))
def test_layers_that_share_a_matrix_stay_joined(name):
    tensors, header = FORMATS[name].write(adapters.adapter())
    joined, again = FORMATS[name].write(decode(tensors, header))
    assert again == header
    assert {key: one.shape for key, one in joined.items()} == {key: one.shape for key, one in tensors.items()}
    shared = {key: one for key, one in _fused_by_hand(rank=5).items()}
    back, _ = FORMATS["kohya"].write(decode(shared, {}))
    assert back.keys() == shared.keys()
    assert all(torch.equal(back[key].float(), one.float()) for key, one in shared.items())


def _fused_by_hand(rank, dtype=torch.float32):
    """A file as sd-scripts trains it: one A for query, key and value, and one for a whole single block."""
    random = torch.Generator().manual_seed(1)
    shapes = {
        "lora_unet_double_blocks_1_img_attn_qkv": (96, 32),
        "lora_unet_double_blocks_1_txt_attn_qkv": (96, 32),
        "lora_unet_single_blocks_4_linear1": (224, 32),
    }
    tensors = {}
    for name, (outputs, inputs) in shapes.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, inputs, generator=random).to(dtype)
        tensors[f"{name}.lora_up.weight"] = torch.randn(outputs, rank, generator=random).to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(2.0, dtype=dtype)
    return tensors


@pytest.mark.parametrize("rank", (1, 3, 4, 8))
def test_a_joined_layer_is_cut_at_the_rows_of_its_parts(rank):
    tensors = _fused_by_hand(rank)
    found = decode(tensors, {}).layers
    up, down = (tensors[f"lora_unet_single_blocks_4_linear1.lora_{one}.weight"] for one in ("up", "down"))
    whole = up @ down * 2.0 / rank
    parts = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]
    for part, rows in zip(parts, whole.split([32, 32, 32, 128]), strict=True):
        torch.testing.assert_close(found[f"transformer.single_transformer_blocks.4.{part}"].delta(), rows)
    assert len(found) == 3 + 3 + 4


def test_parts_with_matrices_of_their_own_stand_block_by_block_and_get_their_ranks_back():
    lora = adapters.adapter(only=lambda name: "blocks.0.attn.to_" in name and "out" not in name)
    tensors, _ = FORMATS["kohya"].write(lora)
    up = tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"]
    assert up.shape == (96, 12)
    assert not up[:32, 4:].any() and not up[32:64, :4].any() and not up[64:, :8].any()
    assert {layer.rank for layer in decode(tensors, {}).layers.values()} == {4}


def test_a_part_that_is_missing_stays_missing():
    lora = adapters.adapter(only=lambda name: name.endswith(("single_transformer_blocks.0.attn.to_v",)))
    assert through(lora, "kohya").layers.keys() == lora.layers.keys()


def test_the_halves_of_the_last_modulation_change_places():
    name = "transformer.norm_out.linear"
    lora = adapters.adapter(only=name.__eq__, magnitude=True)
    tensors, _ = FORMATS["kohya"].write(lora)
    layer, there = lora.layers[name], "lora_unet_final_layer_adaLN_modulation_1"
    lengths = tensors[f"{there}.dora_scale"].flatten()
    for written, own in ((tensors[f"{there}.lora_up.weight"], layer.up), (lengths, layer.magnitude)):
        half = len(own) // 2
        assert torch.equal(written[:half], own[half:]) and torch.equal(written[half:], own[:half])
    found = decode(tensors, {}).layers[name]
    assert torch.equal(found.up, layer.up) and torch.equal(found.magnitude, layer.magnitude)


@pytest.mark.parametrize("name", ("kohya", "comfyui"))
def test_parts_with_one_matrix_and_different_alphas_keep_what_each_adds(name):
    qkv = [f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    lora = adapters.adapter(only=lambda one: one in qkv)
    down = lora.layers[qkv[0]].down
    layers = {
        part: LowRank(down, lora.layers[part].up, alpha) for part, alpha in zip(qkv, (1.0, 2.0, 4.0), strict=True)
    }
    assert compare(Lora(layers), through(Lora(layers), name)).largest < TOLERANCE


@pytest.mark.parametrize("name", ("kohya", "comfyui"))
def test_dora_lengths_are_columns_and_a_part_without_weights_keeps_its_own(name):
    qkv = [f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    lora = adapters.adapter(only=lambda one: one in qkv, magnitude=True)
    down = lora.layers[qkv[0]].down
    layers = {part: LowRank(down, one.up * (part != qkv[1]), 2.0, one.magnitude) for part, one in lora.layers.items()}
    tensors, header = FORMATS[name].write(Lora(layers))
    (lengths,) = (one for key, one in tensors.items() if key.endswith(".dora_scale"))
    assert lengths.shape == (96, 1)
    found = decode(tensors, header).layers
    assert all(torch.equal(found[part].magnitude, one.magnitude) for part, one in layers.items())


def test_dora_on_a_part_of_a_joined_layer_is_refused():
    lora = adapters.adapter(only=lambda name: name.endswith("transformer_blocks.0.attn.to_q"), magnitude=True)
    with pytest.raises(ModelError, match=r"only some of .*attn.to_q.* Use the diffusers format, or train all"):
        FORMATS["kohya"].write(lora)


def test_alpha_and_ranks_are_read_from_the_settings_in_the_header():
    lora = adapters.adapter(only=lambda name: "attn.to_" in name and name.startswith("transformer."))
    names = [name.removeprefix("transformer.") for name in lora.layers]
    tensors = {}
    for name, layer in lora.layers.items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = layer.down, layer.up
    settings = {"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.alpha_pattern": {f"^{names[0]}": 8}}
    found = decode(tensors, {SETTINGS: json.dumps(settings)}).layers
    assert [found[f"transformer.{name}"].alpha for name in names[:2]] == [8.0, 2.0]
    rooted = decode(tensors, {SETTINGS: json.dumps({**settings, "transformer.use_rslora": True})}).layers
    assert rooted[f"transformer.{names[1]}"].scale == pytest.approx(2 / 4**0.5)
    assert {layer.alpha for layer in decode(tensors, {}).layers.values()} == {4.0}


@pytest.mark.parametrize(
    "prefix, ending",
    [
        ("base_model.model.", "lora_A.weight"),
        ("base_model.model.transformer.", "lora_A.default.weight"),
        ("", "lora_A.weight"),
        ("transformer.", "lora_down.weight"),
        ("transformer.", "lora.down.weight"),
    ],
)
def test_every_spelling_of_diffusers_names_is_read(prefix, ending):
    lora = adapters.adapter(only=lambda name: name.startswith("transformer."))
    tensors = {}
    for name, layer in lora.layers.items():
        start = prefix + name.removeprefix("transformer.")
        tensors[f"{start}.{ending}"] = layer.down
        tensors[f"{start}.{ending.replace('lora_A', 'lora_B').replace('down', 'up')}"] = layer.up
    assert detect(tensors) == "diffusers"
    assert compare(lora, decode(tensors, {})).largest < 1e-12


def test_alphas_beside_diffusers_names_are_read():
    lora = adapters.adapter(alpha=lambda number: 3.0)
    tensors = {}
    for name, layer in lora.layers.items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = layer.down, layer.up
        tensors[f"{name}.alpha"] = torch.tensor(3)
    assert compare(lora, decode(tensors, {})).largest < 1e-12


@pytest.mark.parametrize("prefix", ("diffusion_model.", "model.diffusion_model.", "base_model.model.", ""))
@pytest.mark.parametrize("down, up", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
def test_every_spelling_of_bfl_names_is_read(prefix, down, up):
    lora = adapters.adapter(only=lambda name: name.startswith("transformer."), alpha=lambda number: 2.0)
    written, _ = FORMATS["comfyui"].write(lora)
    tensors = {
        key.replace("diffusion_model.", prefix).replace("lora_down", down).replace("lora_up", up): one
        for key, one in written.items()
    }
    assert detect(tensors) == "comfyui"
    assert compare(lora, decode(tensors, {})).apart == {}


def test_clip_is_found_by_the_names_of_both_transformers_versions():
    lora = adapters.adapter(only=lambda name: name.startswith("text_encoder."))
    tensors, header = FORMATS["diffusers"].write(lora)
    newer = {key.replace("text_model.", ""): one for key, one in tensors.items()}
    assert compare(lora, decode(newer, header)).apart == {}


def test_onetrainer_files_are_read():
    lora = adapters.adapter(rank=lambda number: 1 + number % 3, alpha=lambda number: 1.0)
    starts = {"transformer.": "lora_transformer_", "text_encoder.": "lora_te1_", "text_encoder_2.": "lora_te2_"}
    tensors = {}
    for name, layer in lora.layers.items():
        part = name.partition(".")[0] + "."
        flat = starts[part] + name.removeprefix(part).replace(".", "_")
        tensors[f"{flat}.lora_down.weight"], tensors[f"{flat}.lora_up.weight"] = layer.down, layer.up
        tensors[f"{flat}.alpha"] = torch.tensor(layer.alpha)
    assert detect(tensors) == "onetrainer"
    assert compare(lora, decode(tensors, {})).largest < 1e-12


def test_xlabs_files_are_read():
    random = torch.Generator().manual_seed(2)
    shapes = {
        "double_blocks.0.processor.qkv_lora1": (96, 32),
        "double_blocks.0.processor.qkv_lora2": (96, 32),
        "double_blocks.0.processor.proj_lora1": (32, 32),
        "double_blocks.0.processor.proj_lora2": (32, 32),
        "single_blocks.3.processor.qkv_lora": (96, 32),
        "single_blocks.3.processor.proj_lora": (32, 160),
    }
    tensors = {}
    for name, (outputs, inputs) in shapes.items():
        tensors[f"{name}.down.weight"] = torch.randn(4, inputs, generator=random)
        tensors[f"{name}.up.weight"] = torch.randn(outputs, 4, generator=random)
    assert detect(tensors) == "xlabs"
    found = decode(tensors, {}).layers
    text = tensors["double_blocks.0.processor.qkv_lora2.up.weight"]
    key = found["transformer.transformer_blocks.0.attn.add_k_proj"].delta()
    torch.testing.assert_close(key, text[32:64] @ tensors["double_blocks.0.processor.qkv_lora2.down.weight"])
    single = tensors["single_blocks.3.processor.qkv_lora.up.weight"]
    value = found["transformer.single_transformer_blocks.3.attn.to_v"].delta()
    torch.testing.assert_close(value, single[64:] @ tensors["single_blocks.3.processor.qkv_lora.down.weight"])
    assert len(found) == 3 + 3 + 2 + 3 + 1


def test_joined_projections_of_diffusers_are_taken_apart():
    random = torch.Generator().manual_seed(3)
    layer = adapters.low_rank((96, 32), 4, 4.0, random)
    start = "transformer.transformer_blocks.2.attn.to_added_qkv"
    found = decode({f"{start}.lora_A.weight": layer.down, f"{start}.lora_B.weight": layer.up}, {}).layers
    key = found["transformer.transformer_blocks.2.attn.add_k_proj"]
    torch.testing.assert_close(key.delta(), layer.delta()[32:64])


def test_tensors_of_zeros_that_are_no_lora_are_left_out_and_others_refused():
    tensors = _fused_by_hand(2)
    zero = {**tensors, "lora_unet_double_blocks_1_img_attn_qkv.diff_b": torch.zeros(96)}
    assert len(decode(zero, {}).layers) == 10
    with pytest.raises(ModelError, match="'lora_unet_double_blocks_1_img_attn_qkv.diff_b' is no part of a LoRA"):
        decode({name: one + 1 for name, one in zero.items()}, {})


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"lora_unet_double_blocks_0_img_mlp_0.lokr_w1": torch.ones(2, 2)}, "a LyCORIS adapter of the kind LoKr"),
        ({"unet.down_blocks.0.to_q.lora_A.weight": torch.ones(2, 2)}, "it is no LoRA for Flux: its first layer is"),
        ({"weight": torch.ones(2)}, "it is no LoRA for Flux: it has no LoRA matrices"),
        ({"transformer.x_embedder.lora_A.weight": torch.ones(2, 2)}, "'transformer.x_embedder' has no up matrix"),
        (
            {"img_in.lora_A.weight": torch.ones(2, 4), "img_in.lora_B.weight": torch.ones(4, 3)},
            r"the matrices of 'img_in' have shapes \(2, 4\) and \(4, 3\)",
        ),
        (
            {
                "img_in.lora_A.weight": torch.ones(2, 4),
                "img_in.lora_B.weight": torch.ones(4, 2),
                "img_in.dora_scale": torch.ones(1, 4),
            },
            "the DoRA lengths of 'img_in' are those of its inputs",
        ),
        (
            {
                "double_blocks.0.img_attn.qkv.lora_A.weight": torch.ones(2, 4),
                "double_blocks.0.img_attn.qkv.lora_B.weight": torch.ones(10, 2),
            },
            "the adapter has 10 rows where",
        ),
    ],
)
def test_what_is_no_lora_for_flux_is_refused_with_a_reason(tensors, message):
    with pytest.raises(ModelError, match=message):
        decode(tensors, {})


def test_every_format_says_what_it_is():
    assert all(READERS.summary(name) for name in READERS)


def test_every_linear_layer_of_flux_chroma_and_controlnet_has_a_name_in_the_diffusers_format():
    networks = [
        FluxTransformer2DModel(guidance_embeds=True, **SMALL),
        FluxControlNetModel(guidance_embeds=True, **SMALL),
        small_chroma(),
    ]
    for network in networks:
        missing = [name for name in shapes(network) if not READERS["diffusers"].place(f"transformer.{name}")]
        assert not missing


@pytest.mark.parametrize("name", ("kohya", "comfyui"))
def test_every_linear_layer_of_chroma_goes_through_the_joined_formats(name):
    random = torch.Generator().manual_seed(0)
    known = {f"transformer.{layer}": shape for layer, shape in shapes(small_chroma()).items()}
    lora = Lora({layer: adapters.low_rank(shape, 2, 2.0, random) for layer, shape in known.items()})
    assert compare(lora, through(lora, name)).apart == {}


SMALL = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 16}
SMALL |= {"joint_attention_dim": 24, "axes_dims_rope": (4, 6, 6)}


def small_chroma():
    sizes = {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 2}
    return ChromaTransformer2DModel(**SMALL, **sizes)
