"""Weights that come and go change nothing: outputs and every gradient are those of a network that has them all."""

import pytest
import tiny
import torch

from simpletuner.errors import ModelError
from simpletuner.models import checkpointing, fusing, offload
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.lycoris import LycorisPlan
from simpletuner.models.adapters.lycoris_settings import LycorisSettings
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.offload import BlockSwap, Groups, LastBlocks, Leaves
from simpletuner.models.precision import PRECISIONS
from simpletuner.models.trained import parameters_of
from simpletuner.models.tread import Route, TokenRouter

CPU = torch.device("cpu")
PLANS = {
    "sd-scripts": BlockSwap(2),
    "kinds": BlockSwap(of_kind=(1, 3)),
    "last": LastBlocks(5),
    "last, all": LastBlocks(7),
    "groups of one": Groups(1),
    "groups of three": Groups(3),
    "ahead": Groups(1, is_overlapped=True),
    "leaves": Leaves(),
    "leaves ahead": Leaves(is_overlapped=True),
    "half of the leaves": Leaves(percent=50),
    "some leaves": Leaves(names=("proj_mlp", "to_q")),
}
PACKED = ["int8-quanto", "int8-matmul", "nf4-bnb", "int2-quanto"]


def trained(precision="no_change", plan=None, recompute=None, routes=()):
    """Two steps' gradients and outputs, with a pass without gradients between, and what is lost if weights are."""
    denoiser = tiny.denoiser()
    PRECISIONS[precision](denoiser.module, denoiser.blocks)
    adapter = lora.attach(denoiser.module, LoraPlan(tuple(PRESETS["all+ffs"]), 4, 4.0), torch.float32, seed=3)
    random = torch.Generator().manual_seed(5)
    for parameter in lora.trainable(denoiser.module).values():
        parameter.data = torch.randn(parameter.shape, generator=random) * 0.1
    denoiser.module.train()
    if recompute:
        checkpointing.enable(denoiser.blocks, recompute)
    router = TokenRouter(denoiser.blocks, routes)
    if plan:
        offload.attach(denoiser.module, denoiser.blocks, plan, CPU, smallest=0)
    found = []
    for seed in (1, 2):
        with torch.no_grad(), adapter.without():
            found.append(denoiser.predict(**tiny.inputs(seed=seed)))
        with router.step(lambda: torch.Generator().manual_seed(1)):
            loss = denoiser.predict(**tiny.inputs(seed=seed)).square().mean()
            loss.backward()
        found.append(loss.detach())
    gradients = [parameter.grad for parameter in lora.trainable(denoiser.module).values()]
    assert all(gradient is not None for gradient in gradients)
    return found + gradients


@pytest.fixture(scope="module")
def resident():
    return trained()


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_gradients_are_the_same_to_the_last_bit(plan, resident):
    same(trained(plan=plan), resident)


@pytest.mark.parametrize("plan", ["kinds", "last", "groups of three", "leaves ahead"])
def test_gradients_are_the_same_when_blocks_are_computed_twice(plan, resident):
    recompute = checkpointing.Recompute(2, keeps_in_main_memory=True, large=0)
    same(trained(plan=PLANS[plan], recompute=recompute), resident)


@pytest.mark.parametrize(("plan", "recompute"), [("sd-scripts", checkpointing.Recompute()), ("leaves", None)])
@pytest.mark.parametrize("precision", PACKED)
def test_packed_weights_travel_too(plan, precision, recompute):
    same(trained(precision, PLANS[plan], recompute), trained(precision))


@pytest.mark.parametrize("algo", ["lokr", "loha"])
@pytest.mark.parametrize("plan", ["sd-scripts", "leaves"])
def test_adapters_that_compute_with_the_weights_find_them(plan, algo):
    """LyCORIS adds to the weights of a layer, wherever these are."""
    settings = LycorisSettings.read({"algo": algo, "linear_dim": 4, "linear_alpha": 2, "multiplier": 1.0, "factor": 4})
    found = []
    for chosen in (None, PLANS[plan]):
        denoiser = tiny.denoiser()
        adapter = LycorisPlan(settings).attach(denoiser.module, torch.float32, seed=3)
        for parameter in parameters_of(adapter).values():
            random = torch.Generator().manual_seed(parameter.numel())
            parameter.data = torch.randn(parameter.shape, generator=random) * 0.1
        if chosen:
            offload.attach(denoiser.module, denoiser.blocks, chosen, CPU, smallest=0)
        loss = denoiser.predict(**tiny.inputs()).square().mean()
        loss.backward()
        with adapter.without():
            base = denoiser.predict(**tiny.inputs()).detach()
        found.append([loss.detach(), base, *(one.grad for one in parameters_of(adapter).values())])
    same(found[1], found[0])


def test_joined_projections_can_be_swapped():
    denoiser = tiny.denoiser()
    fusing.fuse(denoiser.module)
    expected = denoiser.predict(**tiny.inputs())
    offload.attach(denoiser.module, denoiser.blocks, BlockSwap(2), CPU, smallest=0)
    assert torch.equal(denoiser.predict(**tiny.inputs()), expected)


@pytest.mark.parametrize("plan", [Groups(2), Leaves()])
def test_weights_can_stay_on_disk_and_leave_no_file_behind(plan, tmp_path, resident):
    on_disk = type(plan)(disk=tmp_path / "weights")
    same(trained(plan=on_disk, recompute=checkpointing.Recompute()), resident)
    assert list((tmp_path / "weights").iterdir()) == []


def test_routed_tokens_and_swapped_blocks_go_together():
    routes = [Route(1, -2, 0.5)]
    expected = trained(routes=routes)
    same(trained(plan=BlockSwap(2), recompute=checkpointing.Recompute(), routes=routes), expected)


def attached(plan, **options):
    denoiser = tiny.denoiser()
    denoiser.module.requires_grad_(False)
    offload.attach(denoiser.module, denoiser.blocks, plan, CPU, smallest=0, **options)
    return denoiser


def memory_of(module):
    """Bytes that a network holds; a placeholder holds one number, whatever its shape."""
    return sum(
        {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in module.parameters()}.values()
    )


@pytest.mark.parametrize(("plan", "most"), [(BlockSwap(of_kind=(0, 3)), 5), (LastBlocks(7), 2), (Groups(1), 1)])
def test_no_more_blocks_are_on_the_device_than_planned(plan, most):
    denoiser, seen = attached(plan), []
    full = {block: memory_of(block) for block in tiny.denoiser().blocks}
    assert max(memory_of(block) for block in denoiser.blocks[-2:]) < 1000

    def look(block, args):
        seen.append(sum(memory_of(one) > 1000 for one in denoiser.blocks))

    for block in denoiser.blocks:
        block.register_forward_pre_hook(look)
    denoiser.predict(**tiny.inputs())
    assert max(seen) == most and len(full) == 8


def test_blocks_that_never_leave_have_no_second_place():
    (_, line) = [*BlockSwap(of_kind=(1, 2)).lines(tiny.denoiser().blocks)]
    assert line.staying == {2}
    everywhere = [line.wanted(block, backward) for block in range(5) for backward in (False, True)]
    assert frozenset.intersection(*everywhere) == line.staying


def test_autograd_keeps_no_weights_that_left():
    """Without gradient checkpointing too: the memory of the blocks is used again and again."""
    denoiser = attached(Groups(1))
    runs = set()
    for block in denoiser.blocks:
        block.register_forward_hook(
            lambda block, args, output: runs.add(next(block.parameters()).untyped_storage().data_ptr())
        )
    given = tiny.inputs()
    given["noisy"].requires_grad_()
    denoiser.predict(**given).sum().backward()
    assert len(runs) == 2  # one for the double blocks, and one for the single blocks, which have another size


def test_shapes_and_counts_are_those_of_the_whole_network():
    denoiser, whole = attached(Leaves()), tiny.denoiser()
    shapes = {name: one.shape for name, one in denoiser.module.named_parameters()}
    assert shapes == {name: one.shape for name, one in whole.module.named_parameters()}


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (
            BlockSwap(4),
            "^blocks_to_swap: 2 of the first kind of blocks cannot be swapped: the network has 3.*lower it to 2",
        ),
        (BlockSwap(of_kind=(None, 4)), "^single_blocks_to_swap: 4 of the second kind of blocks cannot be swapped"),
        (LastBlocks(8), "^musubi_blocks_to_swap: must be below 8, which is how many blocks the network has, got 8"),
        (Groups(1, is_overlapped=True, needs_card=True), "group_offload_use_stream.*this run is on cpu; leave it out"),
    ],
)
def test_what_the_network_or_the_machine_does_not_have_is_refused(plan, said):
    with pytest.raises(ModelError, match=said):
        attached(plan)


def test_thirty_five_blocks_of_flux_can_be_swapped_and_no_more():
    from itertools import repeat

    class Double(torch.nn.Module): ...

    class Single(torch.nn.Module): ...

    blocks = [*(Double() for _ in repeat(None, 19)), *(Single() for _ in repeat(None, 38))]
    assert [len(line.pieces) for line in BlockSwap(35).lines(blocks)] == [19, 38]
    assert BlockSwap(35).refusal([19, 38]) is None
    assert "18 of the first kind" in str(BlockSwap(36).refusal([19, 38]))
    assert str(BlockSwap(36).refusal([19, 38])).endswith("lower it to 35 or less")


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="group_offload_to_disk_path"):
        attached(Groups(1, disk=tmp_path / "file"))
