"""What two options cannot be together."""

from collections.abc import Sequence

import pytest

from simpletuner.models.options import Routing
from simpletuner.rules import routes


def told(*spans: tuple[int, int]) -> Sequence[str]:
    given = [{"selection_ratio": 0.5, "start_layer_idx": start, "end_layer_idx": end} for start, end in spans]
    return [str(problem) for problem in routes(Routing.model_validate({"tread_config": {"routes": given}}))]


@pytest.mark.parametrize("spans", [[(2, 6)], [(2, -2)], [(0, 0)], [(2, 6), (7, 9)], [(-9, -5), (-4, -1)]])
def test_routes_one_after_the_other_are_fine(spans: list[tuple[int, int]]) -> None:
    assert told(*spans) == []


def test_a_route_that_ends_before_it_starts_is_told() -> None:
    assert told((9, 3)) == ["tread_config.routes.0: ends at block 3, before it starts at 9; swap them"]


@pytest.mark.parametrize("spans", [[(2, 6), (6, 9)], [(5, 9), (2, 5)], [(2, 9), (3, 4)], [(-9, -4), (-5, -1)]])
def test_routes_through_the_same_block_are_told(spans: list[tuple[int, int]]) -> None:
    assert len(told(*spans)) == 1
    assert "tread_config.routes.1: goes through blocks of the route from" in told(*spans)[0]
