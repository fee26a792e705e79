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

from simpletuner.data.opening import open_all
from simpletuner.data.options import DataDefaults
from simpletuner.data.scan import scan
from simpletuner.data.sources import Local
from simpletuner.progress import Recorded


def main() -> None:
    """Print pictures a second for each way to look at a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000, help="how many JPEG files are drawn, 1000 to a folder")
    parser.add_argument("--repeats", type=int, default=5, help="how often each way is taken")
    parser.add_argument("--captions", action="store_true", help="with a caption file beside each picture")
    parser.add_argument("--pictures", type=Path, help="a folder with pictures, instead of drawing some")
    options = parser.parse_args()
    setting.print_setting()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = options.pictures or _drawn(folder / "pictures", options.images, with_captions=options.captions)
        count = sum(name.endswith(".jpg") for _, _, names in os.walk(pictures) for name in names)
        strategy = "textfile" if options.captions else "filename"
        times = setting.taking_turns(_ways(folder, pictures, strategy), options.repeats)
    rows = [_row(name, setting.median(each), count) for name, each in times.items()]
    setting.print_table(("way", "wall", "processor", "images/s", "images a processor second"), rows)
    first, again = (setting.median(times[name]) for name in ("open_all, first run", "open_all, second run"))
    print(f"\nThe second run is {first.wall / again.wall:.1f} times as fast as the first.")


def _drawn(folder: Path, images: int, *, with_captions: bool) -> Path:
    for number, start in enumerate(range(0, images, 1000)):
        part = setting.draw_pictures(folder / f"{number:04}", min(1000, images - start), shortest=96, longest=192)
        if not with_captions:
            for path in part.glob("*.txt"):
                path.unlink()
    return folder


def _ways(folder: Path, pictures: Path, strategy: str) -> dict[str, Callable[[], setting.Time]]:
    entry = Local(id="pictures", instance_data_dir=pictures, caption_strategy=strategy)
    fresh = (folder / f"fresh {number}" for number in itertools.count())

    def scanned(place: Path) -> object:
        return scan(
            entry.open(),
            place / "manifest.parquet",
            caption_extension=entry.caption_extension,
            with_captions=strategy == "textfile",
            advance=lambda count: None,
        )

    def opened(place: Path) -> object:
        return open_all([entry], DataDefaults(), train_batch_size=1, cache=place, seed=1, reporter=Recorded())

    scanned(folder / "known")
    opened(folder / "known")
    ways: dict[str, Callable[[], object]] = {
        "os.walk": lambda: _names(pictures),
        "os.walk and os.stat": lambda: _facts(pictures),
        "os.walk and imagesize": lambda: _bare(pictures, with_digest=False),
        "os.walk, imagesize and digest of every file": lambda: _bare(pictures, with_digest=True),
        "scan, first run: sizes only": lambda: scanned(next(fresh)),
        "scan, second run": lambda: scanned(folder / "known"),
        "open_all, first run": lambda: opened(next(fresh)),
        "open_all, second run": lambda: opened(folder / "known"),
    }
    return {name: lambda way=way: setting.timed(way) for name, way in ways.items()}


def _names(pictures: Path) -> list[str]:
    """What can be known of a folder without asking for any of its files."""
    return [os.path.join(parent, name) for parent, _, names in os.walk(pictures) for name in names]


def _facts(pictures: Path) -> list[os.stat_result]:
    """The least that tells whether any file has changed."""
    return [os.stat(name) for name in _names(pictures)]


def _bare(pictures: Path, *, with_digest: bool) -> list[tuple[str, object, str]]:
    """Sizes of all pictures below a folder, without anything that a data set needs besides."""
    found = []
    for path in _names(pictures):
        if path.endswith(".jpg"):
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
