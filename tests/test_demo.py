"""The demo does what it promises: the trained adapter draws what the base cannot, and the base's own things survive."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from simpletuner.demo.measure import is_zorb, look


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, run as a user runs it."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "simpletuner", "train", "--example", "demo"]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def pictures(folder, pattern):
    return {path.name: Image.open(path) for path in sorted((folder / "output" / "demo").glob(pattern))}


def of_zorbs(found):
    return [image for name, image in found.items() if "circle" not in name]


def last_step(folder):
    return json.loads((folder / "config.json").read_text())["max_train_steps"] if folder else 0


def test_the_adapter_draws_zorbs_and_the_base_does_not(demo, root):
    folder, _ = demo
    step = last_step(root / "config" / "examples" / "demo")
    before = of_zorbs(pictures(folder, "benchmarks/base_model/*.png"))
    after = of_zorbs(pictures(folder, f"validation_images/step_{step}_*_128x128.png"))
    assert len(before) == len(after) == 5
    assert sum(map(is_zorb, before)) == 0
    assert sum(map(is_zorb, after)) >= 4


def test_the_zorbs_have_the_colours_and_backgrounds_of_their_prompts(demo, root):
    folder, _ = demo
    step = last_step(root / "config" / "examples" / "demo")
    prompts = json.loads((root / "config" / "examples" / "demo" / "user_prompt_library.json").read_text())
    right = 0
    for name, image in pictures(folder, f"validation_images/step_{step}_*_128x128.png").items():
        seen = look(image)
        prompt = prompts[name.split("_")[2]]
        right += seen is not None and f" {seen.colour} " in prompt and f" {seen.background} background" in prompt
    assert right >= 5


def test_regularisation_keeps_what_the_base_could_draw(demo, root):
    folder, _ = demo
    step = last_step(root / "config" / "examples" / "demo")
    (circle,) = pictures(folder, f"validation_images/step_{step}_circle_*.png").values()
    assert not is_zorb(circle)


def test_everything_is_where_the_closing_words_say(demo):
    folder, said = demo
    output = folder / "output" / "demo"
    for name in ("pytorch_lora_weights.safetensors", "before_and_after.png", "README.md", "progress.jsonl"):
        assert (output / name).is_file()
        assert f"output/demo/{name}" in said
    assert " configure " in said and " train" in said
    assert len(list((folder / "datasets" / "demo").glob("*.png"))) == 24
    assert (folder / "datasets" / "demo").is_dir() and len(list(output.glob("checkpoint-*"))) == 2


def test_what_is_printed_is_free_of_library_chatter(demo):
    _, said = demo
    for word in ("Warning", "warning", "deprecated", "torchvision", "it/s]"):
        assert word not in said
