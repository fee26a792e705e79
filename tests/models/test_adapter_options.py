"""The options about the adapter: what they mean, and what does not go together."""

import json
import re

import pytest
from pydantic import ValidationError

from simpletuner.models.adapters import planning
from simpletuner.models.adapters.dropout import Dropout
from simpletuner.models.adapters.layers import Rule, Shape
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.merging import BaseAdapter
from simpletuner.models.adapters.presets import PRESETS, SLIDER
from simpletuner.models.options import Adapter
from simpletuner.schema import refusals

LYCORIS = {"lora_type": "lycoris", "lycoris_config": {"algo": "lokr"}}


def said(precision="no_change", **options):
    return [str(problem) for problem in planning.conflicts(Adapter(**options), precision)]


def test_without_options_it_is_a_plain_lora():
    assert planning.plan(Adapter()) == LoraPlan(tuple(PRESETS["all"]), 16, dropout=Dropout())


def test_every_option_reaches_the_plan():
    options = Adapter(
        lora_rank=8,
        lora_alpha=4,
        lora_dropout=0.1,
        lora_dropout_position="rank",
        rank_dropout="0.2",
        module_dropout=0.3,
        use_rslora="true",
        loraplus_lr_ratio=16,
        lora_max_norm=1,
        lora_format="kohya",
        init_lora="one.safetensors",
        flux_lora_target="ai-toolkit",
        train_double_block_indices="0-3",
        train_single_block_indices="none",
        img_attn_dim=4,
        single_mod_dim=0,
        in_dims="[4, 2, 0, 1, 3]",
        rank_pattern='{"to_q": 4}',
        alpha_pattern={"to_q": 2},
        lora_layers=[{"pattern": "to_k", "rank": 2, "lr": 1e-3}],
    )
    assert planning.plan(options) == LoraPlan(
        targets=tuple(PRESETS["ai-toolkit"]),
        rank=8,
        alpha=4.0,
        dropout=Dropout(0.1, "rank", 0.2, 0.3),
        shape=Shape(
            classes={"img_attn_dim": 4, "single_mod_dim": 0},
            in_dims=(4, 2, 0, 1, 3),
            double_blocks="0-3",
            single_blocks="none",
            rank_pattern={"to_q": 4},
            alpha_pattern={"to_q": 2.0},
            rules=(Rule("to_k", 2, None, 1e-3),),
        ),
        use_rslora=True,
        ratio=16.0,
        max_norm=1.0,
        start_file="one.safetensors",
        file_format="kohya",
    )
    assert not said(**options.model_dump(exclude_unset=True))


def test_named_layers_go_before_sliders_and_these_before_the_preset():
    assert planning.plan(Adapter(slider_lora_target=True)).targets == tuple(SLIDER)
    assert planning.plan(Adapter(slider_lora_target=True, peft_lora_target_modules="to_q")).targets == ("to_q",)


def test_one_kind_of_blocks_is_a_short_form():
    shape = planning.plan(Adapter(train_blocks="single", train_single_block_indices="1")).shape
    assert (shape.double_blocks, shape.single_blocks) == ("none", "1")


def test_lycoris_settings_may_be_an_object_text_or_a_file(tmp_path):
    settings = {"algo": "loha", "linear_dim": 8, "multiplier": 0.5}
    path = tmp_path / "lycoris.json"
    path.write_text(json.dumps(settings))
    for given in (settings, json.dumps(settings), str(path)):
        plan = planning.plan(Adapter(lora_type="lycoris", lycoris_config=given))
        assert (plan.settings.algorithm, plan.settings.dim, plan.settings.multiplier) == ("loha", 8, 0.5)


def test_base_adapters_have_strengths():
    assert planning.base_adapters(Adapter(base_adapters="a.safetensors,b.safetensors")) == (
        BaseAdapter("a.safetensors"),
        BaseAdapter("b.safetensors"),
    )
    both = Adapter(base_adapters=["a.safetensors"], base_adapters_strength=0.5)
    assert planning.base_adapters(both) == (BaseAdapter("a.safetensors", 0.5),)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"lora_init_type": "loftq", "precision": "nf4-bnb"}, "lora_init_type: loftq needs the weights as they are"),
        ({"lora_init_type": "pissa", "use_dora": True}, "lora_init_type: pissa does not go together with use_dora"),
        (
            {"lora_init_type": "gaussian", "init_lora": "a"},
            "lora_init_type: gaussian does not go together with init_lo",
        ),
        ({"lora_init_type": "olora", "lora_max_norm": 1}, "olora does not go together with lora_max_norm"),
        ({"use_dora": True, "rank_dropout": 0.1}, "use_dora: does not go together with rank_dropout"),
        ({"use_dora": True, "lora_max_norm": 1}, "use_dora: does not go together with lora_max_norm"),
        ({"lora_dropout_position": "rank"}, "lora_dropout_position: says where lora_dropout acts, which is 0"),
        ({"train_blocks": "single", "train_double_block_indices": "1"}, "train_double_block_indices: names blocks"),
        ({"base_adapters": "a,b", "base_adapters_strength": 1}, "base_adapters_strength: has 1 numbers for 2"),
        ({"lycoris_config": {"algo": "lokr"}}, "lycoris_config: is only read with lora_type lycoris"),
        ({**LYCORIS, "use_dora": True}, "use_dora: is for lora_type standard"),
        ({**LYCORIS, "img_mlp_dim": 0}, "img_mlp_dim: is for lora_type standard"),
        ({**LYCORIS, "lora_format": "kohya"}, "lora_format: a LyCORIS adapter cannot be written as kohya"),
        ({"lora_type": "lycoris", "lycoris_config": {"algo": "lokkr"}}, "lycoris_config: there is no algo 'lokkr'"),
        ({"lora_type": "lycoris"}, "lycoris_config: there is no file 'config/lycoris_config.json'"),
        (
            {"lora_type": "lycoris", "lycoris_config": {"dora_wd": True}, "precision": "int8-quanto"},
            "lycoris_config: dora_wd needs base_model_precision no_change",
        ),
    ],
)
def test_what_does_not_go_together_is_named(options, problem):
    found = said(**options)
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": 0}, "greater than or equal to 1"),
        ({"train_single_block_indices": "3-1"}, "ends before it starts"),
        ({"train_double_block_indices": "x"}, "neither all, none, nor block numbers"),
        ({"in_dims": [1, 2]}, "needs 5 ranks, for img_in, time_in, vector_in, guidance_in, txt_in, got 2"),
        ({"rank_pattern": {"(": 2}}, "is not a regular expression"),
        ({"lora_layers": [{"pattern": "[", "rank": 2}]}, "is not a regular expression"),
        ({"lora_layers": "[{"}, "is not JSON"),
        ({"lora_init_type": "pisa"}, "did you mean 'pissa'?"),
        ({"flux_lora_target": "all+ff"}, "did you mean 'all+ffs'?"),
        ({"lycoris_config": [1]}, "must be an object, or the path of a JSON file, got [1]"),
        ({"lora_dropout_position": "output"}, "no dropout position is called 'output'"),
    ],
)
def test_values_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        Adapter(**options)


def test_what_lycoris_does_not_read_is_told():
    assert list(planning.notices(Adapter(**LYCORIS, lora_rank=8), "no_change")) == [
        "lora_rank has no effect: with lora_type lycoris, layers and sizes are in lycoris_config"
    ]
    assert not list(planning.notices(Adapter(lora_rank=8), "no_change"))


def test_options_of_a_helper_that_is_not_there_are_told():
    strength = {"assistant_lora_strength": 0.5}
    assert list(planning.notices(Adapter(**strength), "no_change")) == [
        "assistant_lora_strength has no effect: assistant_lora_path is not set"
    ]
    off = {**strength, "assistant_lora_path": "a", "disable_assistant_lora": True}
    assert list(planning.notices(Adapter(**off), "no_change")) == [
        "assistant_lora_strength has no effect: disable_assistant_lora is set"
    ]
    assert not list(planning.notices(Adapter(**strength, assistant_lora_path="a"), "no_change"))


def test_a_rule_that_says_nothing_is_told():
    options = Adapter(lora_layers=[{"pattern": "to_k"}, {"pattern": "to_", "rank": 2}])
    assert not list(planning.notices(options, "no_change"))
    (said,) = planning.notices(Adapter(lora_layers=[{"pattern": "to_k"}]), "no_change")
    assert said == "lora_layers: the rule for to_k has no effect: it has no rank, alpha or lr"


def test_a_norm_beside_a_file_to_start_from_is_told():
    options = Adapter(lora_type="lycoris", lycoris_config={"algo": "lokr"}, init_lokr_norm=1e-3, init_lora="a")
    (said,) = planning.notices(options, "no_change")
    assert said == "init_lokr_norm has no effect: init_lora says where training starts"


def test_what_is_not_served_is_still_refused():
    options = Adapter(init_lora_step=3, peft_lora_mode="singlora")
    assert [name for name, _ in refusals(options)] == ["init_lora_step", "peft_lora_mode"]
