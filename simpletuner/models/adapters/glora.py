"""GLoRA with rank_dropout beside a packed base, where the package keeps what it should drop, and with rs_lora.

With rs_lora, the package writes an alpha into its file that means another scaling than the one of training.
"""

from __future__ import annotations

from typing import Any


def mend(layer: Any) -> None:
    """Make a layer of the package behave."""
    if layer.rank_dropout:
        layer.rank_dropout = 1 - layer.rank_dropout
    layer.alpha.fill_(layer.scale * layer.lora_dim)
