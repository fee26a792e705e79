"""Pictures that are scored, previewed, guided away from a weaker model, and drawn with too little memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import house
import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import avg_pool2d, normalize
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from simpletuner.errors import ConfigError, ModelError
from simpletuner.models.family import Posterior, SamplingSchedule
from simpletuner.models.sampling import Course, Guidance, sample
from simpletuner.models.skipping import Skip
from simpletuner.progress import ImagesSaved, Notice, PreviewDrawn, Recorded, Scored
from simpletuner.training.evaluation import margin, quantile
from simpletuner.training.looks import outfits
from simpletuner.training.options import Validation
from simpletuner.training.prompts import Shot, Start
from simpletuner.training.runtime import Runtime
from simpletuner.training.sheets import history
from simpletuner.training.studio import Studio

PROMPT = "a red circle on a white background"
OPTIONS = {
    "validation_disable": False,
    "validation_prompt": PROMPT,
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 3,
    "validation_seed": 11,
    "max_train_steps": 1,
}


@pytest.fixture(scope="module")
def clip(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights, and the tokenizer of the pipeline."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **small, **ends)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **small)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        made = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    made.save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def taef1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taef1")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = AutoencoderTiny(
            latent_channels=16,
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
    made.save_pretrained(folder)
    return folder


def of_kind(recorded: Recorded, kind: type) -> list:
    return [event for event in recorded.events if isinstance(event, kind)]


def test_pictures_are_scored_and_shown_while_they_are_drawn(
    tmp_path: Path, model: Path, pictures: Path, clip: Path, taef1: Path
) -> None:
    options = {**OPTIONS, "evaluation_type": "clip", "pretrained_evaluation_model_name_or_path": str(clip)}
    options |= {"validation_preview": True, "validation_preview_steps": 2, "validation_preview_model": str(taef1)}
    path = house.write_run(tmp_path / "run", [house.data_set("subject", pictures)], **options)
    _, recorded = house.run(path, model)
    (scored,), (saved,) = of_kind(recorded, Scored), of_kind(recorded, ImagesSaved)
    assert list(scored.scores) == ["validation_0_64x64"]  # nothing fits the empty prompt
    assert scored.scores["validation_0_64x64"] == pytest.approx(by_hand(clip, saved.paths[0]), abs=1e-3)
    assert set(scored.summary) == {"min", "max", "mean", "std"}
    previews = of_kind(recorded, PreviewDrawn)
    assert [(event.prompt, event.number, event.steps) for event in previews] == [(PROMPT, 2, 3), ("", 2, 3)]
    assert Image.open(previews[0].path).size == (64, 64)


def by_hand(clip: Path, picture: str) -> float:
    """The likeness of both, through the model alone."""
    found, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    given = processor(text=[PROMPT], images=[Image.open(picture)], return_tensors="pt", truncation=True, max_length=16)
    with torch.no_grad():
        seen = found.get_image_features(pixel_values=given["pixel_values"])
        read = found.get_text_features(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
    features = [one if isinstance(one, torch.Tensor) else one.pooler_output for one in (seen, read)]
    return max(0.0, 100 * float((normalize(features[0]) * normalize(features[1])).sum()))


def test_a_judge_that_cannot_be_loaded_is_told_before_training(tmp_path: Path, model: Path, pictures: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for option, more in (
        ("pretrained_evaluation_model_name_or_path", {"evaluation_type": "clip"}),
        ("validation_preview_model", {"validation_preview": True}),
    ):
        given = {**OPTIONS, option: str(empty), **more}
        path = house.write_run(tmp_path / option, [house.data_set("subject", pictures)], **given)
        with pytest.raises(ModelError, match=f"could not be loaded from '{empty}'"):
            house.run(path, model)
        assert not (tmp_path / option / "cache").exists()  # nor before hours of encoding


@pytest.mark.parametrize("is_offline", [True, False])
def test_an_adapter_for_validation_that_cannot_be_worn_is_told_before_all_work(
    tmp_path: Path, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, is_offline: bool
) -> None:
    source, said = "you/lora:other.safetensors", "let validation_adapter_path or validation_adapter_config name what"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if not is_offline:
        source, said = str(tmp_path / "other.safetensors"), "other.safetensors"
        weights = {"down": torch.zeros(2, 7), "up": torch.zeros(7, 2)}
        names = {"down": "lora_A", "up": "lora_B"}
        layer = "transformer.transformer_blocks.0.attn.to_q"
        save_file({f"{layer}.{names[side]}.weight": one for side, one in weights.items()}, source)
    given = {**OPTIONS, "validation_adapter_path": source}
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], **given)
    with pytest.raises(ModelError, match=said):
        house.run(path, model)
    assert not (tmp_path / "cache").exists()


def test_a_lycoris_adapter_acts_in_pictures_as_strongly_as_asked(tmp_path: Path, model: Path, pictures: Path) -> None:
    lokr = {"algo": "lokr", "linear_dim": 4, "linear_alpha": 4, "factor": 4}
    adapter = {"lora_type": "lycoris", "lycoris_config": lokr, "lora_rank": None, "flux_lora_target": None}
    library = tmp_path / "prompts.json"
    library.write_text(json.dumps({"whole": PROMPT, "half": {"prompt": PROMPT, "adapter_strength": 0.5}}))
    seen = {}
    for strength in (0.0, 0.5, 1.0):
        given = {**OPTIONS, **adapter, "user_prompt_library": str(library), "validation_lycoris_strength": strength}
        given |= {"learning_rate": 0.1, "max_train_steps": 2}
        path = house.write_run(tmp_path / f"{strength}", [house.data_set("subject", pictures)], **given)
        _, recorded = house.run(path, model)
        (saved,) = of_kind(recorded, ImagesSaved)
        for name, file in zip(("whole", "half"), saved.paths, strict=False):
            seen[strength, name] = np.asarray(Image.open(file)).tobytes()
    (base,) = (tmp_path / "1.0" / "output" / "benchmarks" / "base_model").glob("whole_*.png")
    assert seen[0.0, "whole"] == seen[0.0, "half"] == np.asarray(Image.open(base)).tobytes()
    assert seen[0.5, "whole"] == seen[1.0, "half"]
    assert len({seen[strength, "whole"] for strength in (0.0, 0.5, 1.0)}) == 3


def test_a_block_that_the_model_does_not_have_cannot_be_skipped(tmp_path: Path, model: Path, pictures: Path) -> None:
    given = {**OPTIONS, "validation_guidance_skip_layers": [1, 99]}
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], **given)
    with pytest.raises(ConfigError) as told:
        house.resolved(path, model)
    (problem,) = told.value.problems
    assert re.fullmatch(r"names block 99, and the model has \d+, counted from 0; lower it", problem.what)


def test_guidance_leads_away_from_the_network_without_some_blocks() -> None:
    denoiser, given = tiny.denoiser(), tiny.inputs(batch=1)
    course = Course(SamplingSchedule((1.0, 0.7, 0.4, 0.0)))
    skip = Skip((1, 4), scale=1.5, start=0.1, stop=0.5)
    with torch.no_grad():
        found = sample(denoiser, given["noisy"], given["conditioning"], None, course, Guidance(2.0, skip=skip))
        latents = given["noisy"]
        for step, (now, following) in enumerate([(1.0, 0.7), (0.7, 0.4), (0.4, 0.0)]):
            direction = said(denoiser, latents, now, given)
            if step == 1:
                weak = weaker(skip.layers)
                direction = direction + 1.5 * (direction - said(weak, latents, now, given))
            latents = latents + (following - now) * direction
    assert torch.allclose(found, latents, atol=1e-5)


def said(denoiser, latents: torch.Tensor, sigma: float, given: dict) -> torch.Tensor:
    return denoiser.predict(latents, torch.tensor([sigma]), given["conditioning"], torch.tensor([2.0]))


def weaker(layers: tuple[int, ...]):
    """The same network, really built without these blocks."""
    denoiser = tiny.denoiser()
    module = denoiser.module
    double = len(module.transformer_blocks)
    module.transformer_blocks = torch.nn.ModuleList(
        block for number, block in enumerate(module.transformer_blocks) if number not in layers
    )
    module.single_transformer_blocks = torch.nn.ModuleList(
        block for number, block in enumerate(module.single_transformer_blocks) if number + double not in layers
    )
    return denoiser


class Codec:
    """Decodes the first channels, when memory suffices by what it was told."""

    def __init__(self, suffices: Callable[[bool], bool], is_tiled: bool) -> None:
        self._suffices, self._is_tiled = suffices, is_tiled

    def encode(self, pixels: torch.Tensor) -> Posterior:
        if not self._suffices(self._is_tiled):
            raise torch.OutOfMemoryError("too little")
        latents = avg_pool2d(pixels.mean(dim=1, keepdim=True), 8).expand(-1, 16, -1, -1)
        return Posterior(latents, torch.zeros_like(latents))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        if not self._suffices(self._is_tiled):
            raise torch.OutOfMemoryError("too little")
        return latents[:, :3].clamp(-1, 1)


def studio(recorded: Recorded, suffices: Callable[[bool], bool]) -> Studio:
    @contextmanager
    def codec(is_tiled: bool) -> Iterator[Codec]:
        yield Codec(suffices, is_tiled)

    conditioning = {name: one[0] for name, one in tiny.inputs()["conditioning"].items()}
    return Studio(
        codec=codec,
        schedule=lambda steps, height, width: SamplingSchedule((1.0, 0.5, 0.0)),
        prompts={"a": conditioning},
        base="tiny",
        runtime=Runtime.start("no", 1),
        reporter=recorded,
    )


SHOTS = [Shot("one", "a", 64, 64, 1), Shot("two", "a", 64, 64, 2)]


def test_what_memory_does_not_suffice_for_is_decoded_in_tiles_and_then_alone() -> None:
    denoiser = tiny.denoiser()
    plain = studio(Recorded(), lambda is_tiled: True).draw(denoiser, SHOTS, "x")
    recorded = Recorded()
    tiled = studio(recorded, lambda is_tiled: is_tiled).draw(denoiser, SHOTS, "x")
    assert recorded.texts() == ["validation: memory ran out while pictures were decoded; it is tried again in tiles"]
    before = [id(one) for one in denoiser.module.parameters()]
    tries = iter([False, False, True, True])
    recorded = Recorded()
    alone = studio(recorded, lambda is_tiled: next(tries)).draw(denoiser, SHOTS, "x")
    assert [text.rpartition("; ")[2] for text in recorded.texts()] == [
        "it is tried again in tiles",
        "it is tried again with the model moved away",
    ]
    assert [id(one) for one in denoiser.module.parameters()] == before
    for found in (tiled, alone):
        assert [np.asarray(one).tolist() for one in found] == [np.asarray(one).tolist() for one in plain]


def test_what_memory_never_suffices_for_is_told_and_left_out() -> None:
    recorded = Recorded()
    tries = iter([True])
    drawn = studio(recorded, lambda is_tiled: next(tries, False)).draw(tiny.denoiser(), SHOTS, "x")
    assert drawn[0] is not None and drawn[1] is None
    assert recorded.texts()[-1] == (
        "validation: there is too little memory to decode two; they are left out. Lower validation_resolution."
    )


class Exhausted:
    """A denoiser for which the device has too little memory."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(1, 1)
        self.uses_guidance = False

    def predict(self, *given: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("too little")


def test_a_model_that_does_not_fit_while_it_draws_ends_nothing() -> None:
    recorded = Recorded()
    assert studio(recorded, lambda is_tiled: True).draw(Exhausted(), SHOTS[:1], "x") == [None]
    assert of_kind(recorded, Notice)[0].text == (
        "validation: there is too little memory to draw 'one' with 64x64 pixels; it is left out. "
        "Lower validation_resolution."
    )


def test_the_margin_holds_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    for count in (3, 8, 30):
        drawn = random.normal(2.0, 0.7, size=(4000, count))
        held = np.mean([abs(one.mean() - 2.0) <= margin(one.tolist()) for one in drawn])
        assert 0.94 < held < 0.96
    exact = {1: 12.7062, 10: 2.2281, 11: 2.2010, 15: 2.1314, 30: 2.0423, 120: 1.9799}
    assert all(quantile(freedom) == pytest.approx(value, abs=1e-3) for freedom, value in exact.items())


class Onlooker:
    """A denoiser that only remembers what it is shown."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(1, 1)
        self.uses_guidance = False
        self.shown: list[dict[str, torch.Tensor]] = []

    def predict(self, noisy: torch.Tensor, sigma: torch.Tensor, conditioning: dict, guidance: None) -> torch.Tensor:
        self.shown.append(dict(conditioning))
        return torch.zeros_like(noisy)


def test_a_model_that_looks_at_pictures_is_shown_the_one_to_start_from(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50), (255, 255, 255)).save(tmp_path / "white.png")
    start = Start(str(tmp_path / "white.png"), "x", 0.6)
    others = {"reference_0": torch.zeros(1, 16, 4, 4), "reference_1": torch.zeros(1, 16, 4, 4)}
    usual = replace(studio(Recorded(), lambda is_tiled: True), references=lambda height, width: others)
    denoiser = Onlooker()
    usual.draw(denoiser, [replace(SHOTS[0], start=start), SHOTS[1]], "x")
    shown = denoiser.shown
    assert "reference_1" not in shown[0] and torch.equal(shown[0]["reference_0"], torch.ones(1, 16, 8, 8))
    assert len(shown) == 4 and torch.equal(shown[2]["reference_1"], others["reference_1"])


def test_a_picture_that_memory_does_not_suffice_for_is_encoded_in_tiles_or_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (9, 99, 199)).save(tmp_path / "blue.png")
    shots = [replace(SHOTS[0], start=Start(str(tmp_path / "blue.png"), "x", 0.6)), SHOTS[1]]
    denoiser = tiny.denoiser()
    plain = studio(Recorded(), lambda is_tiled: True).draw(denoiser, shots, "x")
    tiled = studio(Recorded(), lambda is_tiled: is_tiled).draw(denoiser, shots, "x")
    assert [np.asarray(one).tolist() for one in tiled] == [np.asarray(one).tolist() for one in plain]
    recorded, tries = Recorded(), iter([False, False])
    drawn = studio(recorded, lambda is_tiled: next(tries, True)).draw(denoiser, shots, "x")
    assert drawn[0] is None and drawn[1] is not None
    assert "too little memory to draw 'one' with 64x64 pixels; it is left out" in recorded.texts()[0]


def worn(**options: object) -> list[tuple[str, list[tuple[str, float]]]]:
    found = outfits(Validation.model_validate(options))
    return [(one.slug, [(adapter.path, adapter.strength) for adapter in one.adapters]) for one in found]


def test_several_adapters_may_be_put_on_one_after_the_other(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for path in paths:
        path.write_bytes(b"")
    one, two = map(str, paths)
    runs = [one, {"label": "both of them", "paths": [{"path": one, "scale": 0.5}, two], "strength": 0.8}]
    expected = [("", []), ("one", [(one, 1.0)]), ("both-of-them", [(one, 0.5), (two, 0.8)])]
    (tmp_path / "runs.json").write_text(json.dumps({"runs": runs}))
    for given in (runs, {"runs": runs}, json.dumps(runs), str(tmp_path / "runs.json")):
        assert worn(validation_adapter_config=given) == expected
    assert worn() == [("", [])]
    assert worn(validation_adapter_path=one) == [("one", [(one, 1.0)])]
    assert worn(validation_adapter_path="you/lora:x.safetensors", validation_adapter_strength=0.3) == [
        ("x", [("you/lora:x.safetensors", 0.3)])
    ]
    assert worn(validation_adapter_path=one, validation_adapter_mode="none") == [("", [])]
    for wrong, said in (
        ("[", "is not JSON"),
        ([], "must be a list of runs"),
        ([one, one], "two runs have the same name"),
        ([{"label": "x"}], "has no path"),
        ([{"path": one, "weight": 2}], "'weight' is not known"),
        ([{"path": one, "strength": "much"}], "is no number"),
        (["./no.safetensors"], "there is no adapter './no.safetensors'"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            worn(validation_adapter_config=wrong)


def test_a_history_shows_some_pictures_of_all_of_the_time_and_survives_a_file_that_is_none(tmp_path: Path) -> None:
    cells = []
    for number in range(100):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        cells.append((f"step {number}", path))
    page = np.asarray(history("a cat", cells, across=4, most=8))
    reds = {int(page[y, x, 0]) for y in range(0, page.shape[0], 20) for x in range(0, page.shape[1], 20)}
    assert {0, 99} < {red for red in reds if red < 100} and page.shape[1] == 4 * 268 + 12
    (tmp_path / "99.png").write_bytes(b"cut off")
    assert np.asarray(history("", cells[-2:])).shape[1] == 268 + 12
