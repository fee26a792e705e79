"""How many pictures a second does a scan look at, the first time and again?

Against the shortest loop that finds sizes at all, `os.walk` and `imagesize`, and against the same loop with a digest of
every file. The files are in the system's page cache for all of them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import imagesize
import setting
import xxhash

from simpletuner.data.dataset import open_all
from simpletuner.data.manifest import scan
from simpletuner.data.options import DataDefaults
from simpletuner.data.sources import Local
from simpletuner.progress import Recorded


def main() -> None:
    """Print pictures a second for each way to look at a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000, help="how many JPEG files are drawn")
    parser.add_argument("--repeats", type=int, default=5, help="how often each way is taken")
    options = parser.parse_args()
    setting.print_setting()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = setting.draw_pictures(folder / "pictures", options.images, shortest=128, longest=256)
        times = setting.taking_turns(_ways(folder, pictures), options.repeats)
    rows = [_row(name, setting.median(each), options.images) for name, each in times.items()]
    setting.print_table(("way", "wall", "processor", "images/s", "images a processor second"), rows)


def _ways(folder: Path, pictures: Path) -> dict[str, Callable[[], setting.Time]]:
    entry = Local(id="pictures", instance_data_dir=pictures, caption_strategy="textfile")
    fresh = (folder / f"fresh {number}" for number in itertools.count())

    def scanned(place: Path, with_captions: bool) -> object:
        return scan(entry.open(), place / "manifest.parquet", with_captions=with_captions, advance=lambda count: None)

    def opened(place: Path) -> object:
        return open_all([entry], DataDefaults(), train_batch_size=1, cache=place, seed=1, reporter=Recorded())

    scanned(folder / "known", True)
    opened(folder / "known")
    ways: dict[str, Callable[[], object]] = {
        "os.walk and imagesize": lambda: _bare(pictures, with_digest=False),
        "scan, cold, sizes only": lambda: scanned(next(fresh), False),
        "scan, cold, sizes and caption files": lambda: scanned(next(fresh), True),
        "scan, warm": lambda: scanned(folder / "known", True),
        "os.walk, imagesize and digest of every file": lambda: _bare(pictures, with_digest=True),
        "open_all, cold: scan, captions, digests, buckets": lambda: opened(next(fresh)),
        "open_all, warm": lambda: opened(folder / "known"),
    }
    return {name: lambda way=way: setting.timed(way) for name, way in ways.items()}


def _bare(pictures: Path, *, with_digest: bool) -> list[tuple[str, object, str]]:
    """Sizes of all pictures below a folder, without anything that a data set needs besides."""
    found = []
    for parent, _, names in os.walk(pictures):
        for name in names:
            if name.endswith(".jpg"):
                path = os.path.join(parent, name)
                with open(path, "rb") as file:
                    size = imagesize.get_info(file, dpi=False, colors=False, channels=False)
                    digest = _digest(file) if with_digest else ""
                found.append((path, size, digest))
    return found


def _digest(file) -> str:
    file.seek(0)
    return xxhash.xxh3_128_hexdigest(file.read())


def _row(name: str, time: setting.Time, images: int) -> list[str]:
    rates = [f"{images / time.wall:,.0f}", f"{images / time.cpu:,.0f}"]
    return [name, setting.milliseconds(time.wall), setting.milliseconds(time.cpu), *rates]


if __name__ == "__main__":
    main()
