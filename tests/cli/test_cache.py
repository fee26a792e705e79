"""``simpletuner cache`` as a user meets it: what it says, what it changes, and its exit code."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import house
import numpy as np
import pytest
import torch

from simpletuner.cli.main import main


@dataclass(frozen=True)
class Run:
    """A config with a cache, and a way to give commands."""

    folder: Path
    call: Callable[..., tuple[int, str]]

    @property
    def cache(self) -> Path:
        """Where everything that is encoded goes."""
        return self.folder / "run" / "cache"

    def entries(self, kind: str) -> dict[str, bytes]:
        """The entries of one cache."""
        root = self.cache / kind
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.safetensors"))}


@pytest.fixture
def run(tmp_path, model, monkeypatch, capsys):
    pictures = house.draw_pictures(tmp_path / "pictures", 6)
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    monkeypatch.setenv("MODEL", str(model))

    def call(*words):
        name, *rest = words
        monkeypatch.setattr(sys, "argv", ["simpletuner", "cache", name, "--config", str(path), *map(str, rest)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return Run(tmp_path, call)


def test_build_encodes_everything_that_a_run_needs_and_nothing_twice(run, model):
    code, said = run.call("build")
    assert code == 0 and "image latents: 6 new" in said
    assert f"{run.cache}/vae: 6 entries ready" in said
    before = {kind: run.entries(kind) for kind in ("vae", "text")}
    code, said = run.call("build")
    assert code == 0 and "new" not in said
    assert {kind: run.entries(kind) for kind in ("vae", "text")} == before
    _, recorded = house.run(run.folder / "run" / "config.json", model)
    assert not any("latents" in text or "embeddings" in text for text in recorded.texts())


def test_what_the_loss_is_never_measured_on_is_not_encoded(run):
    drawn = [house.draw_pictures(run.folder / name, count, seed=count) for name, count in (("a", 2), ("b", 3))]
    sets = [house.data_set(path.name, path, dataset_type="eval") for path in drawn]
    house.write_run(run.folder / "run", [house.data_set("subject", run.folder / "pictures"), *sets])
    code, said = run.call("build")
    assert code == 0 and f"{run.cache}/vae: 6 entries ready" in said
    assert "data set 'a' is not used: set eval_steps_interval" in said
    code, said = run.call("build", "eval_steps_interval=1", "eval_dataset_id=b")
    assert code == 0 and f"{run.cache}/vae: 9 entries ready" in said
    assert "data set 'a' is not used: eval_dataset_id is b" in said


def test_verify_makes_exactly_the_damaged_entries_anew(run):
    run.call("build")
    whole = {kind: run.entries(kind) for kind in ("vae", "text")}
    times = {path: path.stat().st_mtime_ns for path in run.cache.rglob("*.safetensors")}
    victims = [run.cache / "vae" / sorted(whole["vae"])[2], run.cache / "text" / sorted(whole["text"])[0]]
    victims[0].write_bytes(victims[0].read_bytes()[:100])
    victims[1].write_bytes(victims[1].read_bytes()[:-1] + b"\xff")
    code, said = run.call("verify", "--no-rebuild")
    assert code == 1 and all(f"damaged: {victim}" in said for victim in victims) and said.count("damaged: ") == 2
    assert len(victims[0].read_bytes()) == 100
    code, said = run.call("verify")
    assert code == 0 and "2 entries made anew." in said
    assert {kind: run.entries(kind) for kind in ("vae", "text")} == whole
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path not in victims)
    code, said = run.call("verify")
    assert code == 0 and "Every entry is whole." in said


def test_verify_takes_damaged_entries_away_that_the_config_does_not_need(run):
    run.call("build")
    (run.folder / "pictures" / "003.png").unlink()
    for path in (run.cache / "vae").rglob("*.safetensors"):
        path.write_bytes(b"")
    code, said = run.call("verify")
    assert code == 0 and "5 entries made anew." in said and "1 entry taken away" in said
    assert len(run.entries("vae")) == 5


def test_verify_does_not_fill_what_is_merely_missing(run):
    run.call("build")
    gone, harmed, *_ = (run.cache / "vae").rglob("*.safetensors")
    gone.unlink()
    harmed.write_bytes(b"")
    run.call("verify")
    assert not gone.exists() and harmed.stat().st_size > 0


def test_stats_count_what_is_there_and_what_is_needed(run):
    code, said = run.call("stats")
    assert code == 0 and "images that are missing: 6 new" in said
    run.call("build")
    (run.cache / "vae" / "notes.txt").write_text("mine")
    (run.folder / "pictures" / "000.png").unlink()
    _, said = run.call("stats")
    table = said[said.index(f"{run.cache}/vae (images)") :].splitlines()[1:5]
    assert [line.split()[-3 if "B" in line or "bytes" in line else -1] for line in table] == ["5", "0", "1", "1"]
    assert "images that are missing: none" in said


def test_gc_only_counts_and_deletes_when_it_is_told_to(run):
    run.call("build")
    (run.cache / "vae" / "notes.txt").write_text("mine")
    for name in ("000", "001"):
        (run.folder / "pictures" / f"{name}.png").unlink()
    code, said = run.call("gc")
    assert code == 0 and "vae: 2 entries not needed" in said and "Nothing was deleted" in said
    assert len(run.entries("vae")) == 6
    code, said = run.call("gc", "--yes")
    assert code == 0 and "vae: 2 entries not needed" in said and "; deleted" in said
    assert len(run.entries("vae")) == 4 and (run.cache / "vae" / "notes.txt").read_text() == "mine"
    code, said = run.call("gc")
    assert "vae: 0 entries not needed" in said and "Nothing" not in said


def test_gc_keeps_what_another_config_needs(run):
    run.call("build")
    house.draw_pictures(run.folder / "others", 3, seed=5)
    data = [house.data_set("others", run.folder / "others")]
    other = house.write_run(run.folder / "other", data, cache_dir=str(run.cache))
    _, said = run.call("gc", f"cache_dir={run.cache}", "--also", other)
    assert "vae: 0 entries not needed" in said
    small = house.write_run(run.folder / "small", data, cache_dir=str(run.cache))
    run.call("build", f"cache_dir={run.cache}")
    _, said = run.call("gc", f"--config={small}", "--also", run.folder / "run" / "config.json")
    assert "vae: 0 entries not needed" in said
    _, said = run.call("gc", f"--config={small}")
    assert "vae: 6 entries not needed" in said


def test_gc_takes_packed_models_away_that_no_config_needs(run, model):
    packed = run.cache / "packed"
    for precision in ("int8-quanto", "int4-quanto"):
        house.run(run.folder / "run" / "config.json", model, f"base_model_precision={precision}", "max_train_steps=1")
    (packed / "notes").mkdir()
    both = {path.name for path in packed.iterdir()}
    (packed / f"{'0' * 32}.77.unfinished").mkdir()  # of a process that may still be at work
    _, said = run.call("gc", "base_model_precision=int8-quanto")
    assert f"{packed}: 1 packed model not needed" in said and "Nothing was deleted" in said
    assert both < {path.name for path in packed.iterdir()}
    other = run.folder / "run" / "other.json"
    whole = json.loads((run.folder / "run" / "config.json").read_text())
    other.write_text(json.dumps({**whole, "base_model_precision": "int4-quanto"}))
    _, said = run.call("gc", "base_model_precision=int8-quanto", "--also", other)
    assert "packed model" not in said
    run.call("gc", "base_model_precision=int8-quanto", "--yes")
    assert len(list(packed.iterdir())) == 3 and (packed / "notes").is_dir()
    os.utime(packed / f"{'0' * 32}.77.unfinished", (0, 0))
    run.call("gc", "--yes")
    assert [path.name for path in packed.iterdir()] == ["notes"]


def test_import_takes_over_what_fits_and_says_what_does_not(run):
    pictures = run.folder / "pictures"
    for name in ("000", "001"):
        arrays = {"latents_8x8": np.ones((16, 8, 8), np.float32), "original_size_8x8": np.array([64, 64])}
        np.savez(pictures / f"{name}_0064x0064_flux.npz", **arrays)
    os.utime(pictures / "001.png", (time.time() + 9,) * 2)
    hashed = hashlib.sha256(b"002").hexdigest()
    torch.save(["no tensor"], pictures / f"{hashed}.pt")
    before = house.files_of(pictures)
    code, said = run.call("import", pictures)
    assert code == 0 and "taken over: 1 latents of sd-scripts" in said
    assert "left: 1, because the image was changed after it was made" in said
    assert "left: 1, because it holds no latents" in said
    assert len(run.entries("vae")) == 1 and house.files_of(pictures) == before
    code, said = run.call("build")
    assert "image latents: 5 new" in said and "simpletuner cache import" in said


def test_import_from_a_folder_with_nothing_in_it_says_so(run):
    (run.folder / "empty").mkdir()
    code, said = run.call("import", run.folder / "empty")
    assert code == 0 and "There is nothing in" in said
    code, said = run.call("import", run.folder / "missing")
    assert code == 2 and "does not exist" in said


def test_an_invalid_config_ends_with_two_and_no_traceback(run):
    code, said = run.call("stats", "lora_rank=many")
    assert code == 2 and "lora_rank" in said and "Traceback" not in said


def test_on_demand_nothing_is_built_and_it_is_said(run):
    code, said = run.call("build", "vae_cache_ondemand=true")
    assert code == 0 and "6 are left until they are needed" in said and not run.entries("vae")


def test_what_is_encoded_on_demand_is_not_counted_as_missing(run):
    code, said = run.call("stats", "vae_cache_ondemand=true")
    table = said[said.index(f"{run.cache}/vae (images)") :].splitlines()[1:4]
    assert code == 0 and [line.split() for line in table[1:]] == [["missing", "0"], ["made", "later", "6"]]
    assert "images that are missing: none" in said


def test_a_second_config_that_is_not_there_is_named_as_it_was_given(run):
    code, said = run.call("gc", "--also", "nope.json")
    assert code == 2 and "--also nope.json: no config file was found" in said
