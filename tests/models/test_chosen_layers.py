"""Which layers get an adapter, and of what size, on the full-size transformer without weights."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from simpletuner.errors import ModelError
from simpletuner.models.adapters.layers import Rule, Shape, block_numbers, choose, class_of
from simpletuner.models.adapters.lora import linear_layers
from simpletuner.models.adapters.presets import CLASSES, PRESETS


@pytest.fixture(scope="module")
def names() -> list[str]:
    """The linear layers of FLUX.1-dev."""
    with torch.device("meta"):
        return list(linear_layers(FluxTransformer2DModel(guidance_embeds=True)))


def chosen(names, target="all", rank=16, alpha=None, **shape):
    return {layer.name: layer for layer in choose(names, PRESETS[target], rank, alpha, Shape(**shape))}


def test_every_layer_has_the_rank_of_the_run_and_alpha_follows_unless_given(names):
    assert {(one.rank, one.alpha) for one in chosen(names).values()} == {(16, 16.0)}
    assert {(one.rank, one.alpha) for one in chosen(names, alpha=8.0).values()} == {(16, 8.0)}


def test_the_classes_of_sd_scripts_cover_its_304_layers(names):
    """Fused there: 19 x 10 and 38 x 3; here q, k and v are apart, and so is what is in linear1."""
    counts = {option: sum(class_of(name) == option for name in names) for option in CLASSES}
    assert counts == {
        "img_attn_dim": 19 * 4,
        "txt_attn_dim": 19 * 4,
        "img_mlp_dim": 19 * 2,
        "txt_mlp_dim": 19 * 2,
        "img_mod_dim": 19,
        "txt_mod_dim": 19,
        "single_dim": 38 * 5,
        "single_mod_dim": 38,
    }


def test_a_class_has_its_own_rank_and_zero_leaves_it_out(names):
    found = chosen(names, "all+ffs", classes={"img_attn_dim": 4, "txt_mlp_dim": 0, "img_mod_dim": 2})
    assert found["transformer_blocks.3.attn.to_q"].rank == 4
    assert found["transformer_blocks.3.attn.add_q_proj"].rank == 16
    assert found["transformer_blocks.3.norm1.linear"].rank == 2, "a class with a rank is trained, whatever the target"
    assert not any("ff_context" in name for name in found)


def test_alpha_stays_when_a_class_has_another_rank(names):
    found = chosen(names, alpha=8.0, classes={"img_attn_dim": 4})
    assert found["transformer_blocks.3.attn.to_q"].alpha == 8.0


def test_block_numbers_choose_blocks_of_each_kind_apart(names):
    found = chosen(names, double_blocks="0-1,18", single_blocks="none")
    assert {int(name.split(".")[1]) for name in found if name.startswith("transformer_blocks")} == {0, 1, 18}
    assert not any(name.startswith("single") for name in found)
    other = chosen(names, double_blocks="7")
    assert len([name for name in other if name.startswith("single")]) == 114


@pytest.mark.parametrize(
    ("spec", "numbers"),
    [("all", None), ("none", set()), ("", set()), ("3", {3}), ("0-2, 7", {0, 1, 2, 7}), ("ALL", None)],
)
def test_the_grammar_of_block_numbers(spec, numbers):
    assert block_numbers(spec) == numbers


@pytest.mark.parametrize("spec", ["a", "1-", "-3", "1;2", "5-2", "1,,2"])
def test_block_numbers_of_another_form_are_refused(spec):
    with pytest.raises(ValueError, match="neither all, none, nor block numbers|ends before it starts"):
        block_numbers(spec)


def test_a_block_that_is_not_there_is_named(names):
    with pytest.raises(ModelError, match=r"train_double_block_indices names block 19, but the network has 19 double"):
        chosen(names, double_blocks="0-19")


def test_embedders_have_ranks_of_their_own(names):
    found = chosen(names, in_dims=(4, 2, 0, 1, 3))
    ranks = {name: layer.rank for name, layer in found.items() if "blocks" not in name}
    assert ranks == {
        "x_embedder": 4,
        "context_embedder": 3,
        "time_text_embed.timestep_embedder.linear_1": 2,
        "time_text_embed.timestep_embedder.linear_2": 2,
        "time_text_embed.guidance_embedder.linear_1": 1,
        "time_text_embed.guidance_embedder.linear_2": 1,
    }


def test_the_first_rule_holds_and_goes_before_classes_and_blocks(names):
    rules = (Rule(r"blocks\.7\..*to_q", rank=64, alpha=32.0, learning_rate=1e-3), Rule("to_q", rank=2), Rule("to_k", 0))
    found = chosen(names, rules=rules, classes={"img_attn_dim": 4}, double_blocks="0")
    seventh = found["transformer_blocks.7.attn.to_q"]
    assert (seventh.rank, seventh.alpha, seventh.learning_rate) == (64, 32.0, 1e-3)
    assert found["transformer_blocks.5.attn.to_q"].rank == 2, "a rule with a rank goes before block numbers"
    assert "transformer_blocks.5.attn.to_v" not in found
    assert "transformer_blocks.0.attn.to_k" not in found
    assert found["transformer_blocks.0.attn.to_v"].rank == 4


def test_patterns_match_the_end_of_a_name_as_in_peft(names):
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    patterns = {r"single_transformer_blocks\.\d\.attn\.to_q": 4, "to_q": 8, "^proj_out": 2}
    found = chosen(names, "all+ffs", rank_pattern=patterns, alpha_pattern={"to_v": 1.0})
    config = LoraConfig(r=16, rank_pattern=patterns)
    for name, layer in found.items():
        assert layer.rank == config.rank_pattern.get(get_pattern_key(patterns, name), 16), name
        assert layer.alpha == (1.0 if name.endswith("to_v") else layer.rank), name


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"rules": (Rule("nonsense", rank=2),)}, "lora_layers: no trained layer has 'nonsense' in its name"),
        ({"rank_pattern": {"to_x": 4}}, "rank_pattern: no trained layer has a name that ends in 'to_x'"),
        ({"alpha_pattern": {"to_x": 4.0}}, "alpha_pattern: no trained layer"),
        ({"double_blocks": "none", "single_blocks": "none"}, "leave no layer to train"),
    ],
)
def test_what_would_have_no_effect_is_refused(names, shape, said):
    with pytest.raises(ModelError, match=said):
        chosen(names, **shape)
