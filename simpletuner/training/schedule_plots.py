"""Drawings of the learning rate schedules for the documentation: one small diagram for each, in one SVG file."""

from __future__ import annotations

from collections.abc import Sequence

from simpletuner.training.schedules import LR_SCHEDULES, LearningRate, read_rules

_TOTAL, _WARMUP, _END = 1000, 100, 0.04
_RULES, _LAST = read_rules("1:400,0.5:700,0.1")
_WIDTH, _HEIGHT, _GAP, _TITLE = 200, 100, 30, 24
_COLUMNS = 3


def drawn() -> str:
    """Every schedule of the table over a run of 1000 steps, with 100 steps of warm-up."""
    rows = -(-len(LR_SCHEDULES) // _COLUMNS)
    size = (_GAP + _COLUMNS * (_WIDTH + _GAP), rows * (_TITLE + _HEIGHT + _GAP) + 2 * _GAP)
    parts = [_diagram(name, *divmod(number, _COLUMNS)) for number, name in enumerate(LR_SCHEDULES)]
    return "\n".join([_head(*size), *parts, _foot(size[1]), "</svg>", ""])


def _head(width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">\n<title>Learning rate schedules</title>\n'
        f'<rect width="{width}" height="{height}" fill="white"/>'
    )


def _foot(height: int) -> str:
    told = (
        f"A run of {_TOTAL} steps with lr_warmup_steps {_WARMUP}, lr_num_cycles 3, lr_power 2 and lr_decay_steps 20%;",
        "lr_step_rules is 1:400,0.5:700,0.1. Upright from 0 to learning_rate; the dotted line is lr_end.",
    )
    lines = (
        f'<text x="{_GAP}" y="{height - 22 + 14 * row}" font-size="10" fill="#555">{line}</text>'
        for row, line in enumerate(told)
    )
    return "\n".join(lines)


def _diagram(name: str, row: int, column: int) -> str:
    left, top = _GAP + column * (_WIDTH + _GAP), row * (_TITLE + _HEIGHT + _GAP) + _TITLE + 10
    bottom, end = top + _HEIGHT, top + _HEIGHT * (1 - _END)
    return "\n".join(
        [
            f'<text x="{left}" y="{top - 8}">{name}</text>',
            f'<path d="M{left} {top}V{bottom}H{left + _WIDTH}" fill="none" stroke="#999"/>',
            f'<path d="M{left} {end:g}H{left + _WIDTH}" fill="none" stroke="#bbb" stroke-dasharray="2 3"/>',
            f'<polyline points="{_points(_rates(name), left, top)}" fill="none" stroke="#1f6feb" stroke-width="2"/>',
        ]
    )


def _rates(name: str) -> Sequence[float]:
    """The rate before every fifth step, where the peak is 1."""
    rate = LearningRate(
        name,
        peak=1.0,
        end=_END,
        warmup_steps=_WARMUP,
        total_steps=_TOTAL,
        power=2.0,
        cycles=3,
        decay_steps=_TOTAL // 5,
        rules=_RULES,
        last_factor=_LAST,
    )
    return [rate.at(step) for step in range(0, _TOTAL + 1, 5)]


def _points(rates: Sequence[float], left: int, top: int) -> str:
    step = _WIDTH / (len(rates) - 1)
    return " ".join(f"{left + number * step:.1f},{top + _HEIGHT * (1 - one):.1f}" for number, one in enumerate(rates))
