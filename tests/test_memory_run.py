"""Whole runs: options that trade memory and time give the adapter of a run without them."""

import house
import pytest
import torch
from safetensors.torch import load_file

from simpletuner.errors import ConfigError

EXACT = [
    {"gradient_checkpointing": True},
    {
        "gradient_checkpointing": True,
        "gradient_checkpointing_backend": "unsloth",
        "gradient_checkpointing_interval": 2,
    },
    {"single_blocks_to_swap": 2},
    {"musubi_blocks_to_swap": 3, "gradient_checkpointing": True},
    {"enable_group_offload": True, "group_offload_type": "leaf_level"},
    {"ramtorch": True, "ramtorch_transformer_percent": 50},
    {"group_offload_text_encoder": True, "group_offload_vae": True},
    {"ramtorch_text_encoder": True, "ramtorch_text_encoder_percent": 50, "ramtorch_vae": True},
    {"keep_vae_loaded": True, "accelerator_cache_clear_interval": 2},
]
NEAR = [{"attention_mechanism": "native-math"}, {"fuse_qkv_projections": True}]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    model = house.model_folder(tmp_path_factory.mktemp("model"))
    pictures = house.draw_pictures(tmp_path_factory.mktemp("pictures"), 4)

    def adapter(**options):
        folder = tmp_path_factory.mktemp("run")
        house.run(house.write_run(folder, [house.data_set("a", pictures)], **options), model)
        return load_file(folder / "output" / "pytorch_lora_weights.safetensors")

    return adapter


@pytest.fixture(scope="module")
def plain(train):
    return train()


@pytest.mark.parametrize("options", EXACT, ids=str)
def test_memory_options_give_the_same_adapter_to_the_last_bit(train, plain, options):
    for name, tensor in train(**options).items():
        assert torch.equal(tensor, plain[name]), name


@pytest.mark.parametrize("options", NEAR, ids=str)
def test_other_arithmetic_gives_nearly_the_same_adapter(train, plain, options):
    for name, tensor in train(**options).items():
        torch.testing.assert_close(tensor, plain[name], rtol=1e-2, atol=3e-4)


def test_an_image_encoder_that_stays_loaded_draws_the_same_pictures(tmp_path, pictures, model):
    draws = {"validation_disable": False, "validation_prompt": "a ring", "validation_resolution": "64x64",
             "validation_num_inference_steps": 1, "validation_step_interval": 1, "max_train_steps": 2}  # fmt: skip
    found = []
    for stays in (False, True):
        path = house.write_run(tmp_path / str(stays), [house.data_set("a", pictures)], keep_vae_loaded=stays, **draws)
        outcome, _ = house.run(path, model)
        found.append({one.name: one.read_bytes() for one in (outcome.folder / "validation_images").iterdir()})
    assert found[0] == found[1]
    assert len(found[0]) >= 2


@pytest.mark.parametrize(
    "options",
    [
        {"grad_clip_method": "value", "max_grad_norm": 0.01},
        # It limits gradients by itself, so that this limit is not used.
        {"optimizer": "optimi-stableadamw", "max_grad_norm": 1e-6},
    ],
)
def test_updates_in_the_backward_pass_give_the_same_adapter(train, options):
    apart, fused = train(**options), train(**options, fused_backward_pass=True)
    assert all(torch.equal(tensor, fused[name]) for name, tensor in apart.items())


@pytest.mark.parametrize("option", ["fused_backward_pass", "optimizer_release_gradients"])
def test_updates_in_the_backward_pass_are_refused_with_what_needs_all_gradients_at_once(tmp_path, option):
    path = house.write_run(tmp_path, [], **{option: True}, gradient_accumulation_steps=2)
    with pytest.raises(ConfigError) as told:
        house.resolved(path, tmp_path)
    found = [str(one) for one in told.value.problems if one.where == option]
    assert found == [
        f"{option}: needs gradient_accumulation_steps 1; set that, or leave it out",
        f"{option}: cannot know the norm of all gradients; set grad_clip_method to value, or max_grad_norm to 0",
    ]
