"""How frozen weights are kept in memory: the table of precisions, and which layers they pack."""

from simpletuner.models.precision.layers import packable
from simpletuner.models.precision.table import (
    FASTER,
    PRECISIONS,
    Quantise,
    activation_problem,
    full_training_problem,
    kept,
    missing_package,
    packing,
    recipe,
    workplace,
)

__all__ = [
    "FASTER",
    "PRECISIONS",
    "Quantise",
    "activation_problem",
    "full_training_problem",
    "kept",
    "missing_package",
    "packable",
    "packing",
    "recipe",
    "workplace",
]
