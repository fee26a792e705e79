"""Prompts that are drawn with the trained adapter at strengths of their own, in whole runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import house
import pytest
import stock
import tiny
import torch
from models.test_lora_variants import attached, disturb
from PIL import Image
from safetensors.torch import load_file, save_file
from training.test_judging import SHOTS, studio

from simpletuner.building import build_trainer
from simpletuner.config import read
from simpletuner.errors import ConfigError
from simpletuner.models.adapters.adapter import AdapterFile
from simpletuner.models.trained import Trained
from simpletuner.preparation import prepare
from simpletuner.progress import ImagesSaved, Recorded
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.prompts import Shot
from simpletuner.training.runtime import Runtime
from simpletuner.training.trainer import Trainer

PROMPT = "a red circle on a white background"
OPTIONS = {
    "validation_disable": False,
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 3,
    "validation_guidance": 2.5,
    "validation_disable_unconditional": True,
    "validation_seed": 11,
    "max_train_steps": 2,
}
STRENGTHS = {"usual": None, "none": 0, "one": 1, "half": 0.5, "twice": 2}
LOKR = {
    "lora_type": "lycoris",
    "lycoris_config": {
        "algo": "lokr",
        "linear_dim": 4,
        "linear_alpha": 4,
        "factor": 4,
        "apply_preset": {"target_module": ["Attention", "FeedForward"]},
    },
    "learning_rate": 0.1,
}
KINDS = {
    "lora": ({}, ".lora_B."),
    "dora": ({"use_dora": True}, ".lora_B."),
    "lokr": (LOKR, ".lokr_w1"),
    "packed": ({**LOKR, "base_model_precision": "int8-quanto"}, ".lokr_w1"),
    "texts": ({"train_text_encoder": True, "train_t5xxl": True, "tokenizer_max_length": 24}, ".lora_B."),
}
"""Options of adapters, and which of their weights all that they add is a multiple of."""


def library(folder: Path, strengths: dict[str, float | None]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    entries = {name: {"prompt": PROMPT, "adapter_strength": one} for name, one in strengths.items()}
    path = folder / "prompts.json"
    path.write_text(json.dumps(entries))
    return path


def written(folder: Path, pictures: Path, strengths: dict[str, float | None] = STRENGTHS, **options: object) -> Path:
    given = {**OPTIONS, "user_prompt_library": str(library(folder, strengths)), **options}
    return house.write_run(folder, [house.data_set("subject", pictures)], **given)


def drawn(recorded: Recorded) -> ImagesSaved:
    return [event for event in recorded.events if isinstance(event, ImagesSaved)][-1]


def base(folder: Path, name: str) -> Path:
    (path,) = (folder / "benchmarks" / "base_model").glob(f"{name}_64x64_*.png")
    return path


@contextmanager
def resumed(path: Path, model: Path, checkpoint: Path) -> Iterator[tuple[Trainer, Recorded]]:
    config = house.resolved(path, model)
    runtime, recorded = Runtime.start("no", 7), Recorded()
    prepared = prepare(config, runtime, recorded)
    trainer = build_trainer(config, prepared, Checkpoints(Path(config.run.output_dir), 0), runtime, recorded)
    trainer.saving.restore(checkpoint)
    yield trainer, recorded


def halve(trained: Trained, ending: str) -> None:
    assert isinstance(trained, AdapterFile)
    state = trained.adapter.state()
    changed = {name: one / 2 if ending in f"{name}." else one.clone() for name, one in state.items()}
    assert any(not torch.equal(changed[name], one) for name, one in state.items())
    trained.adapter.load(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_drawn_by_the_base_the_adapter_or_a_share_of_it(
    tmp_path: Path, model: Path, pictures: Path, kind: str
) -> None:
    """Half of an adapter is the usual picture of one whose weights were halved, bit for bit."""
    options, ending = KINDS[kind]
    path = written(tmp_path, pictures, **options)
    outcome, recorded = house.run(path, model)
    event = drawn(recorded)
    names = ["usual_0", "none_at0_1", "one_2", "half_at0.5_3", "twice_at2_4"]
    assert [Path(one).name for one in event.paths] == [f"step_2_{name}_64x64.png" for name in names]
    usual, none, one, half, twice = event.paths
    assert stock.differ(none, base(outcome.folder, "usual")) == 0
    assert stock.differ(one, usual) == 0
    for other in (none, half, twice):
        assert stock.differ(other, usual) > 1
    for name in STRENGTHS:
        assert stock.differ(base(outcome.folder, name), none) == 0

    with resumed(path, model, outcome.checkpoints[-1]) as (trainer, _):
        halve(trainer.trained, ending)
        trainer.validation.draw(trainer.denoiser, trainer.trained, 9)
    folder = outcome.folder / "validation_images"
    assert stock.differ(folder / "step_9_usual_0_64x64.png", half) == 0
    assert stock.differ(folder / "step_9_twice_at2_4_64x64.png", usual) == 0
    assert stock.differ(folder / "step_9_none_at0_1_64x64.png", none) == 0


def test_half_an_adapter_is_what_stock_diffusers_draws_with_a_file_of_half_the_weights(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    outcome, recorded = house.run(written(tmp_path, pictures, {"half": 0.5}), model)
    weights = load_file(outcome.adapter)
    halved = {name: one / 2 if "lora_B" in name else one for name, one in weights.items()}
    save_file(halved, tmp_path / "half.safetensors", metadata={"format": "pt"})
    with_half = stock.pipeline(model, tmp_path / "half.safetensors")
    image = stock.drawn(with_half, PROMPT, guidance_scale=2.5, width=64, height=64, num_inference_steps=3)
    (half,) = drawn(recorded).paths
    assert stock.differ(half, image) <= 1
    assert stock.differ(half, base(outcome.folder, "half")) > 1


def test_strengths_change_nothing_of_what_is_learned_and_nothing_of_other_pictures(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    plain = dict.fromkeys(STRENGTHS)
    often = {"validation_step_interval": 1, "lora_dropout": 0.2, "max_train_steps": 3}
    one, heard = house.run(written(tmp_path / "plain", pictures, plain, **often), model)
    other, also = house.run(written(tmp_path / "other", pictures, **often), model)
    assert one.adapter.read_bytes() == other.adapter.read_bytes()
    names = [Path(path).name for path in drawn(heard).paths]
    assert names == [f"step_3_{name}_{place}_64x64.png" for place, name in enumerate(STRENGTHS)]
    for place, name in ((0, "usual"), (2, "one")):
        paths = [
            folder / "validation_images" / f"step_3_{name}_{place}_64x64.png" for folder in (one.folder, other.folder)
        ]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    bases = [sorted(path.name for path in (run.folder / "benchmarks").rglob("*.png")) for run in (one, other)]
    assert bases[0] == bases[1] and len(bases[0]) == len(STRENGTHS)


def test_pictures_of_the_base_are_those_of_the_same_prompts_without_strengths(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    """They are named by what a shot says of itself, as they were before there were strengths."""
    before = "Shot(name='a', prompt='b', width=64, height=64, seed=1, steps=20, guidance=3.0, real=1.0, negative='', "
    assert (
        repr(Shot("a", "b", 64, 64, 1))
        == repr(Shot("a", "b", 64, 64, 1, adapter_strength=0.5))
        == f"{before}start=None)"
    )
    path = written(tmp_path, pictures, max_train_steps=1)
    outcome, _ = house.run(path, model)
    files = house.files_of(outcome.folder / "benchmarks")
    library(tmp_path, {**STRENGTHS, "usual": 3.0, "half": None})
    house.run(path, model, "max_train_steps=2")
    assert house.files_of(outcome.folder / "benchmarks") == files


def test_a_picture_says_its_strength_and_the_card_shows_the_adapter_as_it_was_trained(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    outcome, recorded = house.run(written(tmp_path, pictures, {"usual": None, "half": 0.5}, max_train_steps=1), model)
    event = drawn(recorded)
    assert event.prompts == (PROMPT, f"[adapter_strength 0.5] {PROMPT}")
    usual, half = (Image.open(one).text for one in event.paths)
    assert (usual, half) == ({"prompt": PROMPT, "seed": "11"}, {**usual, "adapter_strength": "0.5"})
    assert Image.open(base(outcome.folder, "half")).text == usual
    assert (outcome.folder / "validation_images" / "history_half_at0.5_1_64x64.png").exists()
    card = outcome.card.read_text()
    assert "step_1_usual_0_64x64.png" in card and "half_at0.5" not in card


def test_of_an_average_too_only_a_share_acts(tmp_path: Path, model: Path, pictures: Path) -> None:
    """With `use_ema`, strength 0 is the base by either of the two, and other strengths are of that one."""
    ema = {
        "use_ema": True,
        "ema_validation": "comparison",
        "ema_decay": 0.5,
        "ema_warmup_steps": 1,
        "max_train_steps": 4,
    }
    outcome, recorded = house.run(written(tmp_path, pictures, {"none": 0, "half": 0.5, "usual": 1}, **ema), model)
    own, average = drawn(recorded).paths[:3], drawn(recorded).paths[3:]
    assert Path(average[1]).name == "step_4_half__ema_at0.5_1_64x64.png"
    assert stock.differ(own[0], average[0]) == stock.differ(own[0], base(outcome.folder, "none")) == 0
    assert stock.differ(own[1], average[1]) > 0 and stock.differ(average[1], average[2]) > 0


class Failing:
    """Draws some steps, and then fails."""

    def __init__(self, inner: object, steps: int) -> None:
        self.inner, self.left = inner, steps
        self.module, self.uses_guidance = inner.module, inner.uses_guidance

    def predict(self, *args: object, **given: object) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise ZeroDivisionError
        return self.inner.predict(*args, **given)


@pytest.mark.parametrize("strength", [0.0, 0.1])
def test_drawing_that_fails_leaves_the_adapter_as_it_was(strength: float) -> None:
    denoiser, adapter = attached()
    disturb(adapter)
    usual = denoiser.predict(**tiny.inputs())
    shots = [SHOTS[0], Shot("two", "a", 64, 64, 2, adapter_strength=strength)]
    with pytest.raises(ZeroDivisionError):
        studio(Recorded(), lambda is_tiled: True).draw(Failing(denoiser, 3), shots, "x", at=AdapterFile(adapter).at)
    assert torch.equal(denoiser.predict(**tiny.inputs()), usual)
    assert denoiser.predict(**tiny.inputs()).requires_grad


def test_weights_that_are_trained_themselves_have_no_strength(tmp_path: Path, model: Path, pictures: Path) -> None:
    full = {"model_type": "full", "lora_rank": None, "flux_lora_target": None}
    refusal = (
        r"user_prompt_library: has adapter_strength for 'none', and model_type full trains no adapter, which could act "
        r"more or less; leave it out, or use model_type lora"
    )
    with pytest.raises(ConfigError, match=refusal):
        house.resolved(written(tmp_path, pictures, **full), model)
    entries = [{"path": str(next(pictures.glob("*.png"))), "prompt": PROMPT, "adapter_strength": 0.5}]
    with pytest.raises(ConfigError, match="validation_input: has adapter_strength for 'validation_input_0_000'"):
        house.resolved(written(tmp_path, pictures, {}, validation_input=entries, **full), model)
    house.resolved(written(tmp_path, pictures, {"one": 1, "usual": None}, **full), model)
    house.resolved(written(tmp_path, pictures, validation_disable=True, **full), model)


def test_boxes_for_other_models_are_told_to_have_no_effect(tmp_path: Path, model: Path, pictures: Path) -> None:
    path = written(tmp_path, pictures)
    told = "user_prompt_library: bbox_entities has no effect: no model here reads it"
    environment = {"MODEL": str(model)}
    assert told not in read(path, environment=environment, folder=tmp_path).notices
    entries = {"a": {"prompt": "a", "bbox_entities": [{"label": "x"}]}, "b": {"prompt": "b", "bbox_entities": []}}
    (tmp_path / "prompts.json").write_text(json.dumps(entries))
    assert read(path, environment=environment, folder=tmp_path).notices.count(told) == 1


def test_an_empty_library_draws_nothing_and_other_prompts_are_drawn(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    path = written(tmp_path, pictures, {}, max_train_steps=1)
    _, recorded = house.run(path, model)
    assert not any(isinstance(event, ImagesSaved) for event in recorded.events)
    _, recorded = house.run(path, model, f"validation_prompt={PROMPT}", "max_train_steps=2")
    assert [Path(one).name for one in drawn(recorded).paths] == ["step_2_validation_0_64x64.png"]
