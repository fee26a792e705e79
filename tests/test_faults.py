"""What goes wrong on real machines: each fault ends in a message that names it, or changes nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import house
import pytest
from safetensors import safe_open

from simpletuner.errors import CheckpointError, ConfigError, DataError
from simpletuner.progress import DatasetReady, StepDone


@pytest.fixture
def pictures(tmp_path):
    return house.draw_pictures(tmp_path / "pictures", 8)


def trained(path, model, *words):
    return [event for event in house.run(path, model, *words)[1].events if isinstance(event, StepDone)]


@pytest.mark.parametrize("harm", ["zero bytes", "random bytes", "text", "half of it"])
def test_a_bad_picture_is_named_before_training_and_the_rest_is_trained_on(tmp_path, model, pictures, harm):
    victim = pictures / "003.png"
    content = victim.read_bytes()
    harmed = {
        "zero bytes": b"",
        "random bytes": os.urandom(500),
        "text": b"not a picture",
        "half of it": content[: len(content) // 2],
    }
    victim.write_bytes(harmed[harm])
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    outcome, recorded = house.run(path, model)
    assert outcome.steps == 6
    skipped = next((tmp_path / "run" / "cache" / "manifest").glob("*.skipped.tsv")).read_text()
    assert "003.png" in skipped
    assert any("left out" in text for text in recorded.texts())
    assert victim.read_bytes() == harmed[harm]


def test_a_bad_picture_is_passed_over_at_the_next_start_too(tmp_path, model, pictures):
    victim = pictures / "003.png"
    victim.write_bytes(victim.read_bytes()[:200])
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    house.run(path, model)
    _, recorded = house.run(path, model, "max_train_steps=7")
    (ready,) = [event for event in recorded.events if isinstance(event, DatasetReady)]
    assert (ready.images, ready.skipped) == (7, 1)


def test_every_missing_caption_is_named(tmp_path, model, pictures):
    for name in ("001.txt", "005.txt"):
        (pictures / name).unlink()
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with pytest.raises(DataError, match=r"(?s)subject.*001\.png.*005\.png"):
        house.run(path, model)


def test_a_data_set_of_bad_pictures_only_is_refused_with_the_reasons(tmp_path, model, pictures):
    for picture in pictures.glob("*.png"):
        picture.write_bytes(b"")
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with pytest.raises(DataError, match=r"(?s)data set 'subject'.*8"):
        house.run(path, model)


def test_missing_folders_are_all_named_before_anything_starts(tmp_path, model, pictures):
    data = [house.data_set(name, tmp_path / name) for name in ("here", "there")]
    path = house.write_run(tmp_path / "run", data)
    with pytest.raises(ConfigError, match=r"(?s)data set 'here'.*data set 'there'"):
        house.run(path, model)


def test_a_model_folder_that_is_none_is_named(tmp_path, pictures):
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with pytest.raises(ConfigError, match="pretrained_model_name_or_path: there is no folder"):
        house.run(path, tmp_path / "no-such-model")


def test_a_model_folder_without_its_parts_is_named(tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with pytest.raises(ConfigError, match="pretrained_model_name_or_path: .*empty"):
        house.run(path, tmp_path / "empty")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, model, pictures):
    (tmp_path / "blocked").write_text("a file where a folder is needed")
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with pytest.raises(DataError, match="cannot write .*blocked.*choose another"):
        house.run(path, model, f"cache_dir={tmp_path}/blocked")


@contextmanager
def small_disk(folder, *options):
    """A real disk of a few hundred kilobytes; the test is skipped where we may not mount one."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_while_caching_is_named_and_what_was_written_stays_good(tmp_path, model, pictures):
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        with pytest.raises(DataError, match="no space left on device.*Free some space"):
            house.run(path, model, f"cache_dir={disk}")
        for entry in disk.rglob("*.safetensors"):
            with safe_open(entry, "pt") as file:
                assert list(file.keys())


def test_a_read_only_cache_is_named(tmp_path, model, pictures):
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(DataError, match="(?i)read-only.*choose a folder you may write to"):
            house.run(path, model, f"cache_dir={disk}")


def test_a_full_disk_while_saving_is_named(tmp_path, model, pictures):
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with (
        small_disk(tmp_path / "disk", "size=200k") as disk,
        pytest.raises(Exception, match="(?i)no space left") as told,
    ):
        house.run(path, model, f"output_dir={disk}/output", "lora_rank=32")
    assert type(told.value).__module__ == "simpletuner.errors"


def test_a_disk_that_becomes_nearly_full_ends_the_run_with_a_checkpoint(tmp_path, model, pictures):
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)], checkpoint_step_interval=2)
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        with pytest.raises(CheckpointError, match="less than disk_low_threshold.*checkpoint-2 is saved: free some"):
            house.run(path, model, f"output_dir={disk}/output", "disk_low_threshold=3.8M")
        _, recorded = house.run(path, model, f"output_dir={disk}/output", "disk_low_threshold=1K")
    assert "resumed from checkpoint-2" in recorded.texts()


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path, model, pictures):
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write .*file.*choose another"):
        house.run(path, model, f"output_dir={tmp_path}/file")


def test_a_link_that_leads_to_itself_is_left_out(tmp_path, model, pictures):
    (pictures / "loop.png").symlink_to("loop.png")
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    assert len(trained(path, model)) == 6


def test_names_of_prompts_cannot_leave_the_output_folder(tmp_path, model, pictures):
    library = tmp_path / "prompts.json"
    library.write_text('{"../../evil": "a red circle", "a/b": "a ring", "a b": "a star", "validation": "a cross"}')
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)], max_train_steps=1)
    draw = ("validation_resolution=64x64", "validation_num_inference_steps=1", "validation_prompt=a square")
    house.run(path, model, "validation_disable=false", f"user_prompt_library={library}", *draw)
    drawn = sorted(one.name for one in (tmp_path / "run" / "output" / "validation_images").glob("step_1_*_64x64.png"))
    names = [name.split("_")[2] for name in drawn]
    assert sorted(names) == ["a-b", "a-b-2", "evil", "unconditional", "validation", "validation-2"]


def test_a_damaged_weight_file_is_named(tmp_path, model, pictures):
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    victim = broken / "text_encoder_2" / "model.safetensors"
    victim.write_bytes(victim.read_bytes()[:1000])
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    with pytest.raises(ConfigError, match="text_encoder_2"):
        house.run(path, broken)


@pytest.mark.slow
def test_kill_while_caching_loses_nothing_that_was_done_and_breaks_nothing(tmp_path, model):
    pictures = house.draw_pictures(tmp_path / "many", 200)
    before = house.files_of(pictures)
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)], max_train_steps=2, vae_batch_size=1)
    latents = tmp_path / "run" / "cache" / "vae"
    command = [sys.executable, "-m", "simpletuner", "train", "--config", str(path)]
    running = subprocess.Popen(command, env={**os.environ, "MODEL": str(model)}, stdout=subprocess.DEVNULL)
    for _ in range(600):
        if len(list(latents.rglob("*.safetensors"))) >= 5:
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = {entry: entry.stat().st_mtime_ns for entry in latents.rglob("*.safetensors")}
    assert 5 <= len(kept) < 200
    assert len(trained(path, model)) == 2
    assert {entry: entry.stat().st_mtime_ns for entry in kept} == kept
    entries = list(latents.rglob("*.safetensors"))
    assert len(entries) == 200
    for entry in entries:
        with safe_open(entry, "pt") as file:
            assert sorted(file.keys()) == ["mean", "std"]
    assert house.files_of(pictures) == before


def test_a_message_for_a_person_has_no_traceback(tmp_path, model, pictures):
    (pictures / "001.txt").unlink()
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)])
    command = [sys.executable, "-m", "simpletuner", "train", "--config", str(path)]
    done = subprocess.run(command, env={**os.environ, "MODEL": str(model)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "001.png" in done.stderr
