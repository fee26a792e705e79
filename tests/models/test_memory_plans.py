"""What the memory options mean, what does not go together, and what has no effect."""

from pathlib import Path

import pytest

from simpletuner.models import memory_plans
from simpletuner.models.checkpointing import Recompute
from simpletuner.models.compiling import Compilation
from simpletuner.models.memory_plans import Circumstances
from simpletuner.models.offload import BlockSwap, Groups, LastBlocks, Leaves
from simpletuner.models.options.memory import Memory
from simpletuner.schema import refusals


def memory(**options):
    return Memory.model_validate(options)


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({}, None),
        ({"blocks_to_swap": 18}, BlockSwap(18, (None, None))),
        ({"single_blocks_to_swap": 20}, BlockSwap(0, (None, 20))),
        ({"musubi_blocks_to_swap": 14}, LastBlocks(14)),
        ({"enable_group_offload": True, "group_offload_blocks_per_group": 4}, Groups(4)),
        (
            {"enable_group_offload": True, "group_offload_use_stream": True},
            Groups(1, is_overlapped=True, needs_card=True),
        ),
        (
            {
                "enable_group_offload": True,
                "group_offload_type": "leaf_level",
                "group_offload_to_disk_path": "/tmp/weights",
            },
            Leaves(disk=Path("/tmp/weights")),
        ),
        (
            {"ramtorch": True, "ramtorch_target_modules": "to_q,to_k", "ramtorch_transformer_percent": 50},
            Leaves(is_overlapped=True, names=("to_q", "to_k"), percent=50),
        ),
    ],
)
def test_options_choose_one_way_to_keep_weights_off_the_card(options, plan):
    assert memory_plans.offload(memory(**options)) == plan
    assert list(memory_plans.conflicts(memory(**options), Circumstances())) == []
    assert list(refusals(memory(**options))) == []


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({}, Recompute()),
        ({"gradient_checkpointing": False}, None),
        ({"gradient_checkpointing_interval": 2}, Recompute(2)),
        (
            {"gradient_checkpointing_interval": 2, "gradient_checkpointing_segment_stride": 3},
            Recompute(2, stride=3),
        ),
        ({"gradient_checkpointing_backend": "unsloth"}, Recompute(keeps_in_main_memory=True)),
    ],
)
def test_options_choose_the_blocks_that_are_computed_twice(options, plan):
    assert memory_plans.recompute(memory(**options)) == plan


def test_options_choose_how_other_networks_keep_their_weights_off_the_card():
    assert memory_plans.offload_of_encoders(memory()) is memory_plans.offload_of_codec(memory()) is None
    grouped = memory(group_offload_text_encoder=True, group_offload_vae=True, group_offload_type="leaf_level")
    assert memory_plans.offload_of_encoders(grouped) == memory_plans.offload_of_codec(grouped) == Leaves()
    assert list(memory_plans.remarks(grouped)) == []
    shared = memory(ramtorch_text_encoder=True, ramtorch_text_encoder_percent=40, ramtorch_vae=True)
    assert memory_plans.offload_of_encoders(shared) == Leaves(is_overlapped=True, percent=40)
    assert memory_plans.offload_of_codec(shared) == Leaves(is_overlapped=True)


def test_options_choose_how_blocks_are_compiled():
    assert memory_plans.compilation(memory()) is None
    options = {"dynamo_backend": "inductor", "dynamo_mode": "max-autotune", "dynamo_dynamic": True}
    assert memory_plans.compilation(memory(**options)) == Compilation("inductor", "max-autotune", dynamic=True)


@pytest.mark.parametrize(
    ("options", "others", "said"),
    [
        (
            {"enable_group_offload": True, "blocks_to_swap": 4},
            {},
            "blocks_to_swap: does not go together with enable_group_offload",
        ),
        (
            {"ramtorch": True, "musubi_blocks_to_swap": 4},
            {},
            "musubi_blocks_to_swap: does not go together with ramtorch",
        ),
        (
            {"gradient_checkpointing_interval": 4, "gradient_checkpointing_segment_stride": 3},
            {},
            "gradient_checkpointing_segment_stride: 3 is less than gradient_checkpointing_interval (4)",
        ),
        ({"dynamo_backend": "inductor", "blocks_to_swap": 4}, {}, "dynamo_backend: compiled blocks cannot be moved"),
        ({"dynamo_backend": "eager", "dynamo_mode": "default"}, {}, "dynamo_mode: is for dynamo_backend inductor"),
        ({"blocks_to_swap": 4}, {"trains_weights": True}, "blocks_to_swap: keeps frozen weights off the card"),
        (
            {},
            {"joins_projections": True, "is_packed": True},
            "fuse_qkv_projections: does not go together with base_model",
        ),
        (
            {},
            {"joins_projections": True, "reads_weights": True},
            "fuse_qkv_projections: does not go together with adapters",
        ),
        (
            {"dynamo_backend": "eager"},
            {"joins_projections": True},
            "fuse_qkv_projections: the compiler cannot follow it",
        ),
        (
            {"group_offload_text_encoder": True, "ramtorch_text_encoder": True},
            {},
            "ramtorch_text_encoder: does not go together with group_offload_text_encoder",
        ),
        (
            {"ramtorch_text_encoder": True},
            {"trains_text": True},
            "ramtorch_text_encoder: keeps frozen weights off the card, and train_text_encoder trains them",
        ),
        (
            {"musubi_blocks_to_swap": 57},
            {"blocks": (19, 38)},
            "musubi_blocks_to_swap: must be below 57, which is how many blocks the network has, got 57",
        ),
        (
            {"single_blocks_to_swap": 37},
            {"blocks": (19, 38)},
            "single_blocks_to_swap: 37 of the second kind of blocks cannot be swapped: the network has 38 of them, and "
            "two must stay on the device; lower it to 36 or less",
        ),
        (
            {"blocks_to_swap": 40, "double_blocks_to_swap": 2},
            {"blocks": (19, 38)},
            "blocks_to_swap: 40 of the second kind of blocks cannot be swapped: the network has 38 of them, and two "
            "must stay on the device; lower it to 36 or less",
        ),
        (
            {"double_blocks_to_swap": 1},
            {"blocks": (2, 5)},
            "double_blocks_to_swap: 1 of the first kind of blocks cannot be swapped: the network has 2 of them, and "
            "two must stay on the device; lower it to 0",
        ),
        (
            {"ramtorch": True, "double_blocks_to_swap": 4},
            {},
            "double_blocks_to_swap: does not go together with ramtorch",
        ),
        (
            {"dynamo_backend": "inductor", "single_blocks_to_swap": 4},
            {},
            "dynamo_backend: compiled blocks cannot be moved; leave it out, or leave out single_blocks_to_swap",
        ),
        (
            {"single_blocks_to_swap": 4},
            {"trains_weights": True},
            "single_blocks_to_swap: keeps frozen weights off the card",
        ),
        (
            {},
            {"routes_tokens": True, "has_controlnet": True},
            "tread_config: leaves out tokens that a ControlNet adds to",
        ),
    ],
)
def test_what_does_not_go_together_is_said_once(options, others, said):
    (found,) = memory_plans.conflicts(memory(**options), Circumstances(**others))
    assert str(found).startswith(said)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"group_offload_use_stream": True}, "group_offload_use_stream has no effect without enable_group_offload"),
        ({"ramtorch_transformer_percent": 50}, "ramtorch_transformer_percent has no effect without ramtorch"),
        ({"dynamo_fullgraph": True}, "dynamo_fullgraph has no effect without dynamo_backend"),
        (
            {"gradient_checkpointing": False, "gradient_checkpointing_interval": 2},
            "gradient_checkpointing_interval has no effect without gradient_checkpointing",
        ),
    ],
)
def test_options_without_their_switch_are_remarked(options, told):
    assert list(memory_plans.remarks(memory(**options))) == [told]


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing_backend": "torch-ffn"},
        {"attention_mechanism": "sla"},
        {"sageattention_usage": "training"},
        {"dynamo_backend": "tensorrt"},
    ],
)
def test_what_is_not_served_is_refused_with_what_is(options):
    assert len(list(refusals(memory(**options)))) == 1
