"""More captions out of one, by changing the order of its parts."""

from __future__ import annotations

from math import factorial

from simpletuner.data.dice import Dice
from simpletuner.data.sections import CaptionShuffle
from simpletuner.seeds import derive


def shuffled(caption: str, options: CaptionShuffle, seed: int) -> tuple[str, ...]:
    """The caption itself, if it is wanted, and as many other orders of its parts as are wanted and possible.

    Args:
        caption: What is said about the image.
        options: How it is cut, how much of it stays in place, and how many orders are wanted.
        seed: Where the orders come from unless the options have a seed of their own.
    """
    if not options.enable:
        return (caption,)
    own = seed if options.seed is None else options.seed
    others = _others(caption, options, derive(own, "caption shuffle", caption))
    return (caption, *others) if options.include_original or not others else others


def _others(caption: str, options: CaptionShuffle, seed: int) -> tuple[str, ...]:
    """Draw until there are enough; equal parts make equal orders, so this may find fewer than it wants."""
    mark, parts = _cut(caption, options)
    head, rest = parts[: options.position_start], parts[options.position_start :]
    wanted = min(options.count, _orders(len(rest)) - 1)
    found: dict[tuple[str, ...], None] = {tuple(rest): None}
    for attempt in range(_ATTEMPTS * wanted):
        order = Dice(derive(seed, "order", attempt)).order(len(rest))
        found[tuple(rest[place] for place in order)] = None
        if len(found) > wanted:
            break
    end = mark if options.split_on == "period" and caption.endswith(mark) else ""
    return tuple(_JOINTS[mark].join([*head, *order]) + end for order in list(found)[1:])


def _cut(caption: str, options: CaptionShuffle) -> tuple[str, list[str]]:
    mark = _MARKS[options.split_on]
    return mark, [part.strip() for part in caption.split(mark) if part.strip()]


def _orders(count: int) -> int:
    return factorial(min(count, _MANY))


_MARKS = {"comma": ",", "space": " ", "period": "."}
_JOINTS = {",": ", ", " ": " ", ".": ". "}
_ATTEMPTS = 8
_MANY = 12
