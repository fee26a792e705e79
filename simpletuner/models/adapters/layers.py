"""Which layers get an adapter, and of what size: a pure function from their names and the options to a list.

Several options speak about the same layer. The most explicit one wins: a rule of `lora_layers`, then `rank_pattern`,
then the rank of the layer's class, then `lora_rank`. Block numbers leave layers out afterwards, but not those that a
rule gave a rank, as sd-scripts does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from simpletuner.errors import ModelError
from simpletuner.models.adapters.presets import CLASSES, EMBEDDERS, KINDS, matches


@dataclass(frozen=True)
class Layer:
    """One layer with an adapter."""

    name: str
    rank: int
    alpha: float
    learning_rate: float | None = None
    """The peak of its own, or None for that of the run."""


@dataclass(frozen=True)
class Rule:
    """What holds for the layers whose name contains a pattern."""

    pattern: str
    rank: int | None = None
    alpha: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Shape:
    """Everything that makes the adapter of one layer different from that of another."""

    classes: Mapping[str, int] = field(default_factory=dict)
    """The rank of each class of layers; 0 leaves the class out."""
    in_dims: Sequence[int] = ()
    """The ranks of the embedders, in the order of EMBEDDERS; 0 leaves one out."""
    double_blocks: str = "all"
    single_blocks: str = "all"
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rules: Sequence[Rule] = ()


def choose(
    names: Sequence[str], targets: Sequence[str], rank: int, alpha: float | None, shape: Shape
) -> tuple[Layer, ...]:
    """The layers with an adapter, in the order in which the network has them.

    Args:
        names: Every linear layer of the network.
        targets: Names, or endings of names, of the layers that get an adapter.
        rank: The rank of a layer that nothing else speaks about.
        alpha: The same for alpha; None makes alpha equal to the rank of each layer.
        shape: What else the options say.

    Raises:
        ModelError: Nothing is left to train, or a pattern or block number is of no layer.
    """
    chosen = tuple(_chosen(names, targets, rank, alpha, shape))
    _see_that_patterns_hit(shape, [layer.name for layer in chosen] or names, names)
    if not chosen:
        raise ModelError(
            f"no layer of the network is called {', '.join(targets)}. Choose another flux_lora_target, or "
            f"name existing layers in peft_lora_target_modules; ranks and block numbers may leave none out of all."
            if not any(matches(name, targets) for name in names)
            else "the ranks and block numbers leave no layer to train; give one class or block a rank above 0."
        )
    return chosen


def _chosen(
    names: Sequence[str], targets: Sequence[str], rank: int, alpha: float | None, shape: Shape
) -> Iterator[Layer]:
    kept = _kept_blocks(names, shape)
    for name in names:
        rule = next((one for one in shape.rules if re.search(one.pattern, name)), Rule(""))
        size = _embedder_rank(name, shape)
        if size is None and _is_targeted(name, targets, shape):
            size = _rank(name, rule, rank, shape)
            if rule.rank is None and not _is_kept(name, kept):
                size = 0
        if size:
            yield Layer(name, size, _alpha(name, rule, alpha, size, shape), rule.learning_rate)


def _is_targeted(name: str, targets: Sequence[str], shape: Shape) -> bool:
    """Whether a target or a class with a rank of its own names the layer."""
    of_class = class_of(name)
    return matches(name, targets) or (of_class is not None and shape.classes.get(of_class, 0) > 0)


def _rank(name: str, rule: Rule, rank: int, shape: Shape) -> int:
    pattern = _pattern(name, shape.rank_pattern)
    of_class = shape.classes.get(class_of(name) or "")
    given = (rule.rank, shape.rank_pattern.get(pattern), of_class, rank)
    return next(one for one in given if one is not None)


def _alpha(name: str, rule: Rule, alpha: float | None, rank: int, shape: Shape) -> float:
    given = (rule.alpha, shape.alpha_pattern.get(_pattern(name, shape.alpha_pattern)), alpha, float(rank))
    return next(one for one in given if one is not None)


def _pattern(name: str, patterns: Mapping[str, object]) -> str:
    """The first pattern that matches the end of the name after a dot, as in PEFT; an empty text for none."""
    return next((one for one in patterns if re.match(rf"(.*\.)?({one})$", name)), "")


def _embedder_rank(name: str, shape: Shape) -> int | None:
    """The rank that `in_dims` gives the layer, or None when it does not speak about it."""
    ranks = zip(EMBEDDERS.values(), shape.in_dims, strict=False)
    return next((rank for endings, rank in ranks if name in endings), None)


def class_of(name: str) -> str | None:
    """The class of layers that a layer of a block belongs to, such as img_attn_dim."""
    return next((option for option, pattern in CLASSES.items() if re.search(pattern, name)), None)


def _kept_blocks(names: Iterable[str], shape: Shape) -> dict[str, frozenset[int]]:
    """The numbers of the blocks that are trained, for each kind of blocks."""
    names = list(names)
    specs = {"double": shape.double_blocks, "single": shape.single_blocks}
    return {kind: _blocks(kind, specs[kind], _count(names, prefix)) for kind, prefix in KINDS.items()}


def _blocks(kind: str, spec: str, count: int) -> frozenset[int]:
    wanted = block_numbers(spec)
    numbers = frozenset(range(count)) if wanted is None else wanted
    if outside := sorted(numbers - frozenset(range(count))):
        raise ModelError(
            f"train_{kind}_block_indices names block {outside[0]}, but the network has {count} {kind} blocks: "
            f"0 to {count - 1}."
        )
    return numbers


def block_numbers(spec: str) -> frozenset[int] | None:
    """What ``0-3,8`` means; None for ``all``, nothing for ``none`` or an empty text.

    Raises:
        ValueError: It is not of this form.
    """
    text = spec.strip().lower()
    if text == "all":
        return None
    parts = [] if text in {"", "none"} else [part.strip() for part in text.split(",")]
    return frozenset(number for part in parts for number in _range(part, spec))


def _range(part: str, spec: str) -> range:
    found = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
    if found is None:
        raise ValueError(f"is neither all, none, nor block numbers such as 0-3,8, got '{spec}'")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise ValueError(f"has a range that ends before it starts: {part}")
    return range(first, last + 1)


def _count(names: Iterable[str], prefix: str) -> int:
    found = (re.match(rf"{prefix}\.(\d+)\.", name) for name in names)
    return max((int(one[1]) + 1 for one in found if one), default=0)


def _is_kept(name: str, kept: Mapping[str, frozenset[int]]) -> bool:
    """Whether the block numbers leave the layer in; a layer outside the blocks always is."""
    for kind, prefix in KINDS.items():
        if found := re.match(rf"{prefix}\.(\d+)\.", name):
            return int(found[1]) in kept[kind]
    return True


def _see_that_patterns_hit(shape: Shape, names: Sequence[str], every: Sequence[str]) -> None:
    """A pattern of no layer is a slip of the pen, and would have no effect."""
    for rule in shape.rules:
        if not any(re.search(rule.pattern, name) for name in (names if rule.rank != 0 else every)):
            raise ModelError(f"lora_layers: no trained layer has '{rule.pattern}' in its name, such as '{names[0]}'.")
    for option, patterns in (("rank_pattern", shape.rank_pattern), ("alpha_pattern", shape.alpha_pattern)):
        for pattern in patterns:
            if not any(_pattern(name, {pattern: 0}) for name in names):
                raise ModelError(f"{option}: no trained layer has a name that ends in '{pattern}', as '{names[0]}'.")
