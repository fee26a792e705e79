"""Settings of LyCORIS that do nothing are told, and only these: each is tried with each algorithm on a real layer."""

import pytest
import torch
from torch import nn

from simpletuner.models.adapters import lycoris_settings
from simpletuner.models.adapters.lycoris_algorithms import ALGORITHMS
from simpletuner.models.adapters.lycoris_network import network
from simpletuner.models.adapters.lycoris_settings import LycorisSettings

CHANGED = {
    "linear_dim": 8,
    "linear_alpha": 3,
    "conv_dim": 8,
    "conv_alpha": 3,
    "dropout": 0.5,
    "rank_dropout": 0.5,
    "module_dropout": 0.9,
    "multiplier": 0.5,
    "factor": 3,
    "block_size": 2,
    "constraint": 1e-4,
    "rescaled": True,
    "use_tucker": True,
    "use_scalar": True,
    "dora_wd": True,
    "wd_on_output": False,
    "full_matrix": True,
    "unbalanced_factorization": True,
    "decompose_both": True,
    "rs_lora": True,
}
BESIDE = {"bypass_mode": True}
AROUND = {
    "plain": {},
    "beside": {"bypass_mode": True},
    "whole": {"full_matrix": True},
    "lengths": {"dora_wd": True},
}
SIZES = {"boft": 12, "lokr": 2}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(64, 96)


def effect(**given):
    """What a layer computes in training with weights that depend on nothing but their names, and what it would save."""
    torch.manual_seed(0)
    base = nn.Sequential(Attention())
    made = network(base, LycorisSettings.read(given))
    (layer,) = made.loras
    for number, (_, one) in enumerate(sorted(layer.named_parameters())):
        random = torch.Generator().manual_seed(number)
        one.data = torch.randn(one.shape, generator=random) * 0.1
    made.apply_to()
    made.train()
    torch.manual_seed(1)
    with torch.no_grad():
        answers = torch.stack([base[0].to_q(torch.ones(2, 64)) for _ in range(3)])
    return answers, {name: tuple(one.shape) for name, one in layer.state_dict().items()}


def same(one, other):
    return one[1] == other[1] and torch.allclose(one[0], other[0], rtol=1e-5, atol=1e-7)


def told(**given):
    assert not list(lycoris_settings.problems(given))
    return [one.partition(" ")[0] for one in lycoris_settings.remarks(given, is_packed=False) if "no effect" in one]


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_settings_are_told_if_they_do_nothing_and_only_then(algo, around):
    given = {"algo": algo, "linear_dim": SIZES.get(algo, 4), **around}
    before = effect(**given)
    idle, said = set(), set()
    for option in CHANGED.keys() - around.keys() - ({"dora_wd"} if "bypass_mode" in around else set()):
        changed = {**given, option: CHANGED[option]}
        said |= {option} & set(told(**changed))
        idle |= {option} if same(before, effect(**changed)) else set()
    assert said == idle


def test_an_entry_of_a_map_is_told_by_what_its_layers_read():
    preset = {"module_algo_map": {"FeedForward": {"algo": "loha", "factor": 2, "alpha": 3}, "Attention": {"dim": 8}}}
    given = {"algo": "lokr", "factor": 16, "block_size": 2, "full_matrix": True, "apply_preset": preset}
    assert list(lycoris_settings.remarks(given, is_packed=False)) == [
        "block_size has no effect: algo lokr does not read it",
        "factor in module_algo_map FeedForward has no effect: algo loha does not read it",
    ]


def test_a_setting_that_only_layers_of_a_map_read_has_an_effect():
    preset = {"name_algo_map": {"proj_out": {"algo": "lokr"}}}
    assert told(algo="loha", factor=8, apply_preset=preset) == []
    preset = {"name_algo_map": {"proj_out": {"algo": "lokr", "factor": 4}}}
    assert told(algo="loha", factor=8, apply_preset=preset) == ["factor"]


def test_random_parts_depend_on_how_the_base_is_kept():
    given = {"algo": "locon", "dropout": 0.1}
    (said,) = lycoris_settings.remarks(given, is_packed=False)
    assert said == "dropout has no effect: it acts with bypass_mode or a packed base only; use module_dropout"
    assert not list(lycoris_settings.remarks(given, is_packed=True))


def test_a_multiplier_that_the_file_does_not_keep_is_told():
    (said,) = lycoris_settings.remarks({"multiplier": 0.5}, is_packed=False)
    assert said == "multiplier 0.5 is not in the file of the adapter, which elsewhere needs a strength of 0.5"


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ({"unet_target_module": ["X"]}, "unet_target_module in apply_preset has no effect: target_module says which"),
        ({"target_name": ["x_embedder"]}, "apply_preset has no target_module, so Attention is trained"),
        (
            {"module_algo_map": {"FeedForward": {}}},
            "apply_preset has no target_module, so Attention is trained besides",
        ),
    ],
)
def test_layers_that_are_not_those_one_might_expect_are_told(preset, said):
    (told,) = lycoris_settings.remarks({"apply_preset": preset}, is_packed=False)
    assert told.startswith(said)


@pytest.mark.parametrize("preset", [{}, {"target_module": []}, {"module_algo_map": {"Attention": {"dim": 2}}}])
def test_layers_that_were_named_are_not_told(preset):
    assert not list(lycoris_settings.remarks({"apply_preset": preset}, is_packed=False))
