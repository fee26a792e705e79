"""What becomes of image files that others made to break things; runs in a process of its own, for its memory."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from simpletuner.data import geometry, images
from simpletuner.data.items import Size

RULES = geometry.Rules(256, crop=True, crop_style="center", crop_aspect="preserve")
USED = "used"


def outcome(path: Path) -> str:
    """Whether a file is used, or the reason why not. Anything but Unreadable is an error of ours."""
    try:
        with path.open("rb") as file:
            size = images.probe(file)
        if reason := geometry.refusal(size, RULES):
            return reason
        image = images.decode(path.read_bytes(), path.name)
    except images.Unreadable as error:
        return str(error)
    return USED if _fits(image.mode, Size(*image.size), size) and _lands(path, image) else "WRONG"


def _fits(mode: str, size: Size, probed: Size) -> bool:
    return mode == "RGB" and size == probed


def _lands(path: Path, image: Image.Image) -> bool:
    placement = geometry.place(Size(*image.size), RULES)
    return images.apply(image, placement).size == placement.bucket


def outcomes(paths: Sequence[Path]) -> Iterator[dict[str, object]]:
    """One line for each file; it is told before its outcome, so that a crash has a name."""
    for path in paths:
        yield {"file": str(path)}
        yield {"file": str(path), "outcome": outcome(path), "peak": _peak()}


def _peak() -> int:
    """Kilobytes of memory that this program needed at most; rusage would count those of the one that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in outcomes([Path(name) for name in sys.stdin.read().splitlines()]):
        print(json.dumps(line), flush=True)
