"""Gets the demo ready: its pictures appear in ``datasets/demo``."""

from __future__ import annotations

from pathlib import Path

from simpletuner.demo.zorb import draw_data_set

FOLDER = Path("datasets/demo")


def prepare_demo() -> None:
    """Draw the demo's data set where its config expects it."""
    draw_data_set(FOLDER)
