"""Odd and hostile image files that others made: each one is used, or left out with a reason, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest

from . import corpus

CACHE = Path.home() / ".cache" / "simpletuner-tests"
PILLOW = "pillow-13.0.0"
WEB = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif", ".gif", ".bmp"}
FULL = 1000

DAMAGED = {
    "broken.png",
    "badwidth.bmp",
    "decompression_bomb.gif",
    "libtiff_segfault.tif",
    "png_decompression_dos.png",
    "truncated_image.png",
    "truncated_jpeg.jpg",
    "zero_width.gif",
}

UPRIGHT = {f"hopper_orientation_{number}.{ending}" for number in range(2, 9) for ending in ("jpg", "webp")}


def fetched(*, may_download: bool) -> list[Path]:
    """The images that Pillow tests itself with, from its source package; kept outside of the checkout."""
    package, folder = CACHE / f"{PILLOW}.tar.gz", CACHE / PILLOW
    if not package.exists():
        if not may_download:
            pytest.skip("the images of Pillow were not fetched yet: run this file once with -m slow")
        _download()
    if not folder.exists():
        _unpack(package, folder)
    return sorted(path for path in (folder / "Tests" / "images").rglob("*") if path.is_file())


def _download() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = [PILLOW.replace("-", "=="), "--dest", str(CACHE)]
    command = [sys.executable, "-m", "pip", "download", "--no-binary", "pillow", "--no-deps", "--quiet", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        pytest.skip(f"the source package of Pillow cannot be fetched: {done.stderr.strip()[-200:]}")


def _unpack(package: Path, folder: Path) -> None:
    beside = folder.with_suffix(".unpacking")
    with tarfile.open(package) as archive:
        images = [member for member in archive if "/Tests/images/" in member.name and member.isfile()]
        for member in images:
            inside = PurePosixPath(member.name).relative_to(PILLOW)
            archive.extract(member.replace(name=str(inside)), beside, filter="data")
    beside.rename(folder)


def outcomes(paths: Sequence[Path]) -> tuple[dict[Path, str], int]:
    """What became of each file, and how many megabytes were needed at most."""
    done = subprocess.run(
        [sys.executable, corpus.__file__], input="\n".join(map(str, paths)), capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]} ended it: {done.stderr[-2000:]}"
    found = {Path(line["file"]): line["outcome"] for line in lines if "outcome" in line}
    assert list(found) == list(paths)
    return found, max(line.get("peak", 0) for line in lines) // 1024


def check(found: dict[Path, str], megabytes: int) -> None:
    """What must hold for every collection of files."""
    assert all(found.values()) and "WRONG" not in found.values()
    assert {path.name for path, outcome in found.items() if outcome == corpus.USED} >= UPRIGHT
    assert not any(outcome == corpus.USED for path, outcome in found.items() if path.name in DAMAGED)
    assert megabytes < 1000


def sample(paths: Sequence[Path]) -> list[Path]:
    """About 120 files of the kinds that are on the web, always the same ones, with all that are known to be bad."""
    web = [path for path in paths if path.suffix in WEB]
    return [path for number, path in enumerate(web) if number % 7 == 0 or path.name in DAMAGED | UPRIGHT]


@pytest.mark.timeout(60)
def test_a_sample_of_odd_images_is_used_or_left_out_with_a_reason() -> None:
    check(*outcomes(sample(fetched(may_download=False))))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_odd_image_is_used_or_left_out_with_a_reason() -> None:
    found, megabytes = outcomes(fetched(may_download=not os.environ.get("CI")))
    assert len(found) > FULL
    check(found, megabytes)
    assert sum(outcome == corpus.USED for outcome in found.values()) > 0.65 * len(found)
