"""A preparation that is killed again and again ends with the same files as one that was never disturbed."""

import os
import subprocess
import sys
from pathlib import Path

import house
import pyarrow.parquet as pq
import pytest


def filled(path: Path, model: Path, *, kills: int) -> dict[str, object]:
    """Fill the caches in a process of its own, and read every file of them."""
    script = Path(__file__).with_name("killing.py")
    command = [sys.executable, str(script), str(path), str(model), str(kills), "5"]
    environment = {**os.environ, "PYTHONPATH": str(script.parent), "OMP_NUM_THREADS": "1", "MODEL": str(model)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == kills
    cache = path.parent / "cache"
    return {one.relative_to(cache).as_posix(): content(one) for one in cache.rglob("*") if one.is_file()}


def content(file: Path) -> object:
    """The bytes of a file; of a manifest its rows, which Parquet may write in several ways."""
    return pq.read_table(file) if file.suffix == ".parquet" else file.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_killing_a_scan_and_its_caching_at_random_moments_changes_no_file(tmp_path: Path, model: Path) -> None:
    kills = 8 if os.environ.get("CI") else 50
    pictures = house.draw_pictures(tmp_path / "pictures", 120, size=(96, 64))
    house.draw_pictures(pictures / "more", 60, size=(64, 64), seed=1)
    (pictures / "broken.png").write_bytes((pictures / "001.png").read_bytes()[:300])
    (pictures / "broken.txt").write_text("broken")
    before = house.files_of(pictures)
    data = [
        house.data_set("shapes", pictures, crop=True, crop_style="random"),
        house.data_set("again", pictures, resolution=128, caption_shuffle={"enable": True, "split_on": "space"}),
    ]
    undisturbed = filled(house.write_run(tmp_path / "calm", data), model, kills=0)
    disturbed = filled(house.write_run(tmp_path / "killed", data), model, kills=kills)
    left = {name for name in disturbed if name.endswith(".part")}
    assert disturbed.keys() - left == undisturbed.keys()
    assert [name for name in sorted(undisturbed) if disturbed[name] != undisturbed[name]] == []
    assert house.files_of(pictures) == before
