"""How long does it take to load what is known about a million pictures, and how much memory does it take?

Against the same rows as Python objects in a pickle, which is what a simple cache of metadata would be. Each is loaded
in a process of its own, so that the memory of one does not count for the other; importing libraries is not timed.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import setting

from simpletuner.data import captions, geometry
from simpletuner.data.manifest import Manifest, Row, load, save, table_of
from simpletuner.data.records import Placer, Records

Work = Callable[[], object]


def main() -> None:
    """Print time and memory for each way to know a million pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many pictures are known")
    parser.add_argument("--repeats", type=int, default=3, help="how often each way is taken")
    parser.add_argument("--way", choices=_WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(_WAYS[options.way](options.folder)))
        return
    setting.print_setting()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _make(folder, options.rows)
        runs = [{way: _alone(way, folder) for way in _WAYS} for _ in range(options.repeats)]
        sizes = [_megabytes(path.stat().st_size) for path in (folder / "rows.pickle", folder / "m.parquet")]
    print(f"{options.rows:,} rows: {sizes[0]} as a pickle, {sizes[1]} as a manifest\n")
    names = [(way, step) for way in _WAYS for step in runs[0][way]]
    rows = [_row(step, [run[way][step] for run in runs]) for way, step in names]
    setting.print_table(("step, each after the one above it", "wall", "processor", "largest memory so far"), rows)


def _make(folder: Path, count: int) -> None:
    """The files that are loaded, from pieces, so that making them takes no more memory than loading them."""
    pieces = [table_of(list(_rows(start, min(start + 50_000, count)))) for start in range(0, count, 50_000)]
    save(folder / "m.parquet", pa.concat_tables(pieces))
    with (folder / "rows.pickle").open("wb") as file:
        pickle.dump([tuple(row) for row in _rows(0, count)], file)


def _rows(start: int, end: int) -> Iterator[Row]:
    draw = np.random.default_rng(start)
    edges = 64 * draw.integers(8, 40, (end - start, 2))  # as of pictures from a few cameras and programs
    for number, (width, height) in zip(range(start, end), edges.tolist(), strict=True):
        said = f"a red circle number {number} over a blue square, soft light, evening, oil on canvas"
        digest = draw.bytes(16).hex()
        key, version = f"{number // 1000:04}/picture_{number:08}.jpg", f"{number}-17{number:017}-17{number:017}"
        yield Row(key, version, number, width, height, digest=digest, caption_version=version, captions=[said])


def _alone(way: str, folder: Path) -> dict[str, list[float]]:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    found: dict[str, list[float]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def _plain(folder: Path) -> dict[str, list[float]]:
    def loaded() -> list[Row]:
        with (folder / "rows.pickle").open("rb") as file:
            return [Row(*row) for row in pickle.load(file)]

    return _measured({"a pickle: imports": lambda: None, "a pickle: loaded": loaded})


def _columns(folder: Path) -> dict[str, list[float]]:
    kept: list[Records] = []

    def loaded() -> None:
        manifest = Manifest(folder / "m.parquet", load(folder / "m.parquet"))
        placer = Placer(geometry.Rules(), 1, "a")
        kept.append(Records(manifest, np.arange(len(manifest)), placer, captions.Rules("textfile")))

    row = table_of([Row("a", "1", 9)])
    return _measured(
        {
            "a manifest: imports": lambda: (save(folder / "one.parquet", row), load(folder / "one.parquet")),
            "a manifest: loaded": loaded,
            "a manifest: sorted into buckets": lambda: kept[0].bucket_of,
            "a manifest: images without a caption looked for": lambda: kept[0].unsure(),
            "a manifest: 1,000 records": lambda: [kept[0].at(index) for index in range(1000)],
        }
    )


def _measured(steps: dict[str, Work]) -> dict[str, list[float]]:
    found = {}
    for name, work in steps.items():
        time = setting.timed(work)
        found[name] = [time.wall, time.cpu, setting.memory("VmHWM")]
    return found


def _row(name: str, measured: list[list[float]]) -> list[str]:
    time = setting.median([setting.Time(wall, cpu) for wall, cpu, _ in measured])
    memory = max(memory for _, _, memory in measured)
    return [name, setting.milliseconds(time.wall), setting.milliseconds(time.cpu), _megabytes(memory)]


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


_WAYS = {"plain": _plain, "columns": _columns}


if __name__ == "__main__":
    main()
