"""Gets the demo ready: its pictures appear in ``datasets/demo`` and ``datasets/demo-shapes``."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

from simpletuner.demo import shapes
from simpletuner.demo.zorb import draw_data_set
from simpletuner.storage.local import LocalStore

ZORBS = Path("datasets/demo")
SHAPES = Path("datasets/demo-shapes")


def prepare_demo() -> None:
    """Draw the demo's data sets where its config expects them; files that are there are left alone."""
    draw_data_set(ZORBS)
    draw_shapes(SHAPES)


def draw_shapes(folder: Path) -> None:
    """Pictures of what the demo model can draw already, so that it does not forget it."""
    store = LocalStore(folder)
    for colour, shape in zip(shapes.COLOURS, [*shapes.SHAPES] * 2, strict=False):
        for background in shapes.BACKGROUNDS:
            scene = shapes.Scene(colour, shape, background, position="centre", size="large")
            stem = f"{colour}-{shape}-{background}".replace(" ", "-")
            if f"{stem}.png" not in store:
                store.write(f"{stem}.png", _png(scene, stem))
            if f"{stem}.txt" not in store:
                store.write(f"{stem}.txt", f"{shapes.captions(scene)[0]}\n".encode())


def _png(scene: shapes.Scene, stem: str) -> bytes:
    buffer = io.BytesIO()
    shapes.draw(scene, Random(stem)).save(buffer, "PNG")
    return buffer.getvalue()
