"""The benchmark of FLUX.1's step: every way steps on a tiny network, and its arithmetic is counted right."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import flux_step

CPU = torch.device("cpu")
CASES = flux_step.cases(2, has_card=False)


@pytest.mark.parametrize("name", ["bf16", "int8-matmul, checkpointing", "TREAD 0.5", "int8-quanto, block swap 2"])
def test_a_way_makes_a_step_that_changes_the_adapter(name):
    bench = flux_step.Bench.made(CASES[name], "tiny", CPU)
    before = [parameter.detach().clone() for parameter in bench.parameters]
    bench.step(64, 1)
    changed = [not torch.equal(one, other) for one, other in zip(before, bench.parameters, strict=True)]
    assert any(changed)


def test_every_way_of_the_issue_is_offered():
    assert {case.precision for case in CASES.values()} >= {"no_change", "int8-quanto", "int8-matmul", "nf4-bnb"}
    for name in ("bf16, compiled", "int4-quanto, checkpointing", "int2-quanto", "TREAD 0.5", "group offload, stream"):
        assert name in CASES


def test_the_arithmetic_of_a_linear_layer_is_counted_forward_and_backward():
    """Twice the batch is twice the work, and routing leaves work out."""
    one, two = (flux_step.flops(0.0, "tiny", 64, batch) for batch in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.01)
    assert flux_step.flops(0.5, "tiny", 64, 1) < 0.9 * one
