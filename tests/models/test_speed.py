"""Checkpointing, compiling, attention kernels, joined projections and fused steps change time and memory only."""

import os

import pytest
import tiny
import torch

from simpletuner.errors import ModelError
from simpletuner.models import attention, checkpointing, compiling, fusing
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.dropout import Dropout
from simpletuner.models.adapters.lora import LoraPlan
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.checkpointing import Recompute
from simpletuner.models.compiling import Compilation
from simpletuner.models.precision import PRECISIONS
from simpletuner.training.fused_backward import UpdatesInBackward, by_weight

CPU = torch.device("cpu")


def ready(change=None, *, dropout=0.0):
    """A tiny Flux with a LoRA that does something, and a change made before the LoRA is attached."""
    denoiser = tiny.denoiser()
    if change:
        change(denoiser)
    plan = LoraPlan(tuple(PRESETS["all+ffs"]), 4, 4.0, Dropout(dropout))
    lora.attach(denoiser.module, plan, torch.float32, seed=3)
    for name, parameter in lora.trainable(denoiser.module).items():
        random = torch.Generator().manual_seed(len(name))
        parameter.data = torch.randn(parameter.shape, generator=random) * 0.1
    denoiser.module.train()
    return denoiser


def trained(denoiser):
    """The loss and every gradient, by name."""
    torch.manual_seed(1)
    loss = denoiser.predict(**tiny.inputs()).square().mean()
    loss.backward()
    return {"loss": loss.detach(), **{name: one.grad for name, one in lora.trainable(denoiser.module).items()}}


@pytest.mark.parametrize(
    ("plan", "twice"),
    [
        (Recompute(), 8),
        (Recompute(3), 3),
        (Recompute(2, stride=4), 4),
        (Recompute(keeps_in_main_memory=True, large=0), 8),
    ],
    ids=str,
)
def test_blocks_that_are_computed_twice_give_the_same_gradients(plan, twice):
    plain, denoiser = trained(ready(dropout=0.3)), ready(dropout=0.3)
    counts = dict.fromkeys(denoiser.blocks, 0)

    def count(block):
        def add(module, args):
            counts[block] += 1

        return add

    for block in denoiser.blocks:
        block.attn.register_forward_pre_hook(count(block))
    checkpointing.enable(denoiser.blocks, plan)
    found = trained(denoiser)
    assert found.keys() == plain.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, plain[name]), name
    assert sorted(counts.values()) == [1] * (8 - twice) + [2] * twice


def test_a_chosen_block_keeps_little_and_that_in_main_memory():
    def kept(plan):
        denoiser, shapes = ready(), []
        if plan:
            checkpointing.enable(denoiser.blocks, plan)

        def pack(tensor):
            shapes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            denoiser.predict(**tiny.inputs())
        return sum(shapes)

    assert kept(Recompute()) < kept(Recompute(2)) < kept(None) / 1.5


def test_nothing_is_computed_twice_without_gradients():
    denoiser = ready()
    expected = denoiser.predict(**tiny.inputs()).detach()
    checkpointing.enable(denoiser.blocks, Recompute())
    with torch.no_grad():
        assert torch.equal(denoiser.predict(**tiny.inputs()), expected)


def test_compiled_blocks_give_the_same_gradients_with_routing_and_checkpointing_around_them():
    from simpletuner.models.tread import Route, TokenRouter

    def routed(is_compiled):
        denoiser = ready()
        if is_compiled:
            compiling.enable(denoiser.blocks[2:4], Compilation("eager", fullgraph=True))  # one of each kind
        checkpointing.enable(denoiser.blocks, Recompute())
        with TokenRouter(denoiser.blocks, [Route(1, -2, 0.5)]).step(lambda: torch.Generator().manual_seed(1)):
            return trained(denoiser)

    plain, compiled = routed(False), routed(True)
    for name, tensor in compiled.items():
        torch.testing.assert_close(tensor, plain[name])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(os.environ.get("CI")), reason="the first time, compiling takes a minute and more")
@pytest.mark.skipif(compiling.missing_tool("inductor", has_card=False) is not None, reason="needs a compiler of C++")
@pytest.mark.parametrize("precision", ["no_change", "int8-quanto"])
def test_what_inductor_compiles_gives_the_same_gradients(precision):
    def packed(denoiser):
        PRECISIONS[precision](denoiser.module, denoiser.blocks)

    plain, denoiser = trained(ready(packed)), ready(packed)
    compiling.enable(denoiser.blocks[2:4], Compilation("inductor", fullgraph=True))  # one of each kind
    checkpointing.enable(denoiser.blocks, Recompute())
    for name, tensor in trained(denoiser).items():
        assert (tensor - plain[name]).norm() <= 1e-5 * plain[name].norm(), name


def test_a_missing_compiler_is_told_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    assert compiling.missing_tool("eager", has_card=False) is None
    on_processor = compiling.missing_tool("inductor", has_card=False)
    assert on_processor == (
        "inductor writes programs for a compiler of C++, and this machine has none; install g++, or set CXX to another "
        "one, or leave dynamo_backend out"
    )
    assert "a compiler of C, " in str(compiling.missing_tool("inductor", has_card=True))
    own = tmp_path / "my-compiler"
    own.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(own))
    assert compiling.missing_tool("inductor", has_card=False) is None


def test_joined_projections_train_every_projection_and_save_the_same_file():
    plain, joined = ready(), ready(lambda denoiser: fusing.fuse(denoiser.module))
    expected, found = trained(plain), trained(joined)
    assert found.keys() == expected.keys()
    assert sum(".to_q." in name or ".add_v_proj." in name for name in found) == 2 * 8 + 2 * 3
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])
    assert lora.encode_file(joined.module, {}) == lora.encode_file(plain.module, {})


def test_joined_projections_are_one_product_and_no_more_weights():
    denoiser, count = tiny.denoiser(), tiny.denoiser().module.num_parameters()
    fusing.fuse(denoiser.module)
    assert denoiser.module.num_parameters() == count
    calls = []
    for module in denoiser.module.modules():
        if isinstance(module, fusing.Joined):
            module.register_forward_hook(lambda module, args, output: calls.append(output))
    denoiser.predict(**tiny.inputs())
    assert len(calls) == 8 + 3


def test_joined_projections_are_computed_twice_exactly_too():
    denoiser = ready(lambda denoiser: fusing.fuse(denoiser.module))
    checkpointing.enable(denoiser.blocks, Recompute())
    expected = trained(ready(lambda denoiser: fusing.fuse(denoiser.module)))
    for name, tensor in trained(denoiser).items():
        assert torch.equal(tensor, expected[name]), name


def test_plain_arithmetic_in_attention_gives_the_same_gradients():
    denoiser = ready()
    attention.use(denoiser.module, "native-math", CPU)
    expected = trained(ready())
    for name, tensor in trained(denoiser).items():
        torch.testing.assert_close(tensor, expected[name])


def test_a_chosen_attention_is_of_the_network_alone():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry._active_backend
    attention.use(ready().module, "native-math", CPU)
    assert _AttentionBackendRegistry._active_backend == before


@pytest.mark.parametrize("name", [name for name, one in attention.ATTENTIONS.items() if one.needs_card])
def test_kernels_of_a_card_are_refused_without_one(name):
    with pytest.raises(ModelError, match=f"'{name}' needs a CUDA or ROCm card, and this run is on cpu; use diffusers"):
        attention.use(tiny.denoiser().module, name, CPU)


@pytest.mark.parametrize(("name", "package"), [("xformers", "xformers"), ("flash-attn", "flash-attn")])
def test_a_missing_package_is_named(name, package):
    with pytest.raises(ModelError, match=f"'{name}' cannot be used here: .*install.*{package}.*use diffusers"):
        attention.use(tiny.denoiser().module, name, torch.device("cuda"))


def test_every_attention_is_one_that_diffusers_has():
    from diffusers.models.attention_dispatch import AttentionBackendName

    assert {one.name for one in attention.ATTENTIONS.values()} <= {one.value for one in AttentionBackendName}


def test_an_attention_without_gradients_computes_in_validation_alone():
    denoiser, used = tiny.denoiser(), []
    denoiser.module.register_forward_pre_hook(attention._Switch("_native_math"))
    block = denoiser.blocks[0].attn
    block.register_forward_pre_hook(lambda module, args: used.append(module.processor._attention_backend))
    for is_training in (True, False, True):
        denoiser.module.train(is_training)
        denoiser.predict(**tiny.inputs())
    assert [one and one.value for one in used] == [None, "_native_math", "native"]


@pytest.mark.parametrize("limit", [0.0, 1e-3])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_steps_inside_the_backward_pass_are_the_same_steps(kind, limit):
    def stepped(is_fused):
        denoiser = ready()
        parameters = list(lora.trainable(denoiser.module).values())
        half = len(parameters) // 2
        groups = [{"params": parameters[:half]}, {"params": parameters[half:], "lr": 3e-3}]
        optimizer = kind(by_weight(groups), lr=1e-2)
        fused = UpdatesInBackward(optimizer, limit=limit) if is_fused else None
        norms = []
        for seed in (1, 2, 3):
            if seed == 2:  # as a run that is resumed does, which makes new groups
                optimizer.load_state_dict(optimizer.state_dict())
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
            denoiser.predict(**tiny.inputs(seed=seed)).square().mean().backward()
            if fused:
                norms.append(fused.norm())
                assert all(parameter.grad is None for parameter in parameters)
                continue
            norms.append(float(torch.nn.utils.get_total_norm([one.grad for one in parameters])))
            if limit:
                torch.nn.utils.clip_grad_value_(parameters, limit)
            optimizer.step()
            optimizer.zero_grad()
        return norms, parameters, optimizer.state_dict()

    (norms, found, state), (expected_norms, expected, expected_state) = stepped(True), stepped(False)
    assert norms == pytest.approx(expected_norms, rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert str(state["param_groups"]) == str(expected_state["param_groups"])
    assert state["state"].keys() == expected_state["state"].keys()
