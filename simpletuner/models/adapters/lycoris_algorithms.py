"""The algorithms of LyCORIS, and which settings each of them reads on linear layers, the only ones of these models.

What is not in this table, the package takes and forgets: tests/models/test_lycoris_effects.py tries each pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simpletuner.schema import words

ALGORITHMS = words(
    "LyCORIS algorithm",
    {
        "lora": "LoRA: two small matrices; the same as locon where there are no convolutions.",
        "locon": "LoRA for linear layers and convolutions.",
        "loha": "Two LoRAs multiplied number by number, of a higher rank for the same size.",
        "lokr": "A Kronecker product: very small files, or nearly full training with full_matrix.",
        "dylora": "A LoRA that can be cut to a lower rank afterwards.",
        "glora": "LoRA whose first matrix also works on the weights of the base.",
        "diag-oft": "Rotates blocks of the output (orthogonal fine-tuning), which keeps the angles between neurons.",
        "boft": "The same with rotations in the form of a butterfly.",
        "ia3": "One number for each input or output of a layer.",
    },
    later={"full": "use lokr with full_matrix", "tlora": "use lora"},
)

_EVERY = frozenset({"multiplier", "module_dropout", "bypass_mode"})
_LOW_RANK = _EVERY | {"linear_dim", "linear_alpha", "use_scalar", "rs_lora", "rank_dropout", "dropout"}
_WITH_LENGTHS = _LOW_RANK | {"dora_wd", "wd_on_output"}
_TURNING = _EVERY | {"linear_dim", "constraint", "rescaled"}

READ: Mapping[str, frozenset[str]] = {
    "lora": _WITH_LENGTHS,
    "locon": _WITH_LENGTHS,
    "loha": _WITH_LENGTHS,
    "lokr": _WITH_LENGTHS | {"factor", "decompose_both", "full_matrix", "unbalanced_factorization"},
    "dylora": _EVERY | {"linear_dim", "linear_alpha", "block_size"},
    "glora": _LOW_RANK,
    "diag-oft": _TURNING | {"rank_dropout"},
    "boft": _TURNING,
    "ia3": _EVERY,
}
"""The settings that an algorithm reads at all, by their names at the top of the JSON."""

_OF_CONVOLUTIONS = frozenset({"conv_dim", "conv_alpha", "use_tucker"})


@dataclass(frozen=True)
class _Idle:
    """A case in which settings do nothing although the algorithm reads them."""

    options: frozenset[str]
    algorithms: frozenset[str]
    holds: Callable[[Mapping[str, Any], bool], bool]
    """Is given all settings of the layers, and whether the adapter computes beside the base."""
    why: str


_IDLE = (
    _Idle(
        frozenset({"dropout"}),
        frozenset({"lora", "locon", "loha", "lokr", "glora"}),
        lambda _, is_beside: not is_beside,
        "it acts with bypass_mode or a packed base only; use module_dropout",
    ),
    _Idle(
        frozenset({"rank_dropout"}),
        frozenset({"glora"}),
        lambda _, is_beside: not is_beside,
        "algo glora reads it with bypass_mode or a packed base only; use module_dropout",
    ),
    _Idle(
        frozenset({"rank_dropout"}),
        frozenset({"lokr", "diag-oft"}),
        lambda _, is_beside: is_beside,
        "the algorithm does not read it with bypass_mode or a packed base; use module_dropout",
    ),
    _Idle(
        frozenset({"linear_dim", "linear_alpha", "decompose_both", "rs_lora"}),
        frozenset({"lokr"}),
        lambda settings, _: bool(settings.get("full_matrix")),
        "with full_matrix there is no rank",
    ),
    _Idle(
        frozenset({"wd_on_output"}),
        frozenset({"lora", "locon", "loha", "lokr"}),
        lambda settings, _: not settings.get("dora_wd"),
        "it acts with dora_wd",
    ),
)


def idle(option: str, algorithm: str, settings: Mapping[str, Any], *, is_packed: bool) -> str | None:
    """Why a setting does nothing, if that is so.

    Args:
        option: Its name at the top of the JSON.
        algorithm: Which one trains the layers.
        settings: All that holds for the layers.
        is_packed: Whether the weights of the base are packed.
    """
    if option in _OF_CONVOLUTIONS:
        return "the model has no convolutions"
    if option not in READ[algorithm]:
        return f"algo {algorithm} does not read it"
    is_beside = is_packed or bool(settings.get("bypass_mode"))
    cases = (one for one in _IDLE if option in one.options and algorithm in one.algorithms)
    return next((one.why for one in cases if one.holds(settings, is_beside)), None)
