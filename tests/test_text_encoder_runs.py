"""Runs that train text encoders with the transformer: what is learned, how it is saved, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import house
import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file

from simpletuner.building import build_trainer
from simpletuner.errors import CheckpointError, ConfigError
from simpletuner.models.adapters.formats import detect
from simpletuner.models.adapters.formats.files import read_adapter
from simpletuner.models.trained import parameters_of
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded, StepDone
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime

CLIP = {"train_text_encoder": True, "tokenizer_max_length": 24, "learning_rate": 1e-2}
BOTH = {**CLIP, "train_t5xxl": True}


def _write(folder: Path, pictures: Path, **options: object) -> Path:
    return house.write_run(folder, [house.data_set("subject", pictures)], **options)


def _trainer(path: Path, model: Path):
    config = house.resolved(path, model)
    runtime = Runtime.start("no", 7)
    prepared = prepare(config, runtime, Recorded())
    return build_trainer(config, prepared, Checkpoints(Path(config.run.output_dir), 0), runtime, Recorded())


def _parts(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in load_file(file)}


def _steps(heard: Recorded) -> list[StepDone]:
    return [event for event in heard.events if isinstance(event, StepDone)]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (CLIP, {"transformer", "text_encoder"}),
        (BOTH, {"transformer", "text_encoder", "text_encoder_2"}),
        ({**BOTH, "text_encoder_lr": [0, 1e-3]}, {"transformer", "text_encoder_2"}),
    ],
)
def test_one_file_holds_the_adapters_of_all_that_is_trained(tmp_path, model, pictures, options, parts) -> None:
    """Every layer that files of other programs can have, with weights that have moved; a rate of 0 leaves one out."""
    outcome, _ = house.run(_write(tmp_path, pictures, **options), model)

    assert _parts(outcome.adapter) == parts
    assert ("- text encoders: `CLIP, T5`" in outcome.card.read_text()) == (len(parts) == 3)
    found = read_adapter(outcome.adapter)
    clip, t5 = found.of("text_encoder"), found.of("text_encoder_2")
    assert len(clip) == (6 * _count(model, "text_encoder", "num_hidden_layers") if "text_encoder" in parts else 0)
    assert len(t5) == (7 * _count(model, "text_encoder_2", "num_layers") if "text_encoder_2" in parts else 0)
    assert all(layer.up.any() for layer in (*clip.values(), *t5.values()))


def _count(model: Path, part: str, option: str) -> int:
    return int(json.loads((model / part / "config.json").read_text())[option])


def test_stock_diffusers_loads_both_parts_that_it_knows_and_encodes_prompts_as_the_run_did(
    tmp_path, model, pictures
) -> None:
    """Its CLIP with the file gives what ours gives at the end of training; T5 is left out there."""
    path = _write(tmp_path, pictures, **BOTH)
    outcome, _ = house.run(path, model)
    ours = _trainer(path, model)
    ours.saving.restore(outcome.checkpoints[-1])
    pipeline = FluxPipeline.from_pretrained(model, torch_dtype=torch.float32)
    _, before, _ = pipeline.encode_prompt("a red circle", None, max_sequence_length=24)

    pipeline.load_lora_weights(outcome.folder)

    with torch.no_grad():
        _, pooled, _ = pipeline.encode_prompt("a red circle", None, max_sequence_length=24)
        told = ours.learning.texts.over({"a red circle": {}})["a red circle"]
    assert not torch.allclose(pooled, before, atol=1e-3)
    torch.testing.assert_close(told["pooled_prompt_embeds"], pooled[0], rtol=1e-5, atol=1e-5)
    assert set(pipeline.get_list_adapters()) == {"transformer", "text_encoder"}


@pytest.mark.parametrize(("form", "prefixes"), [("kohya", ("lora_unet_", "lora_te1_", "lora_te3_"))])
def test_the_names_of_sd_scripts_hold_the_same_weights(tmp_path, model, pictures, form: str, prefixes) -> None:
    """CLIP is lora_te1 there, and T5 lora_te3; read back, each layer adds the same."""
    plain, _ = house.run(_write(tmp_path / "diffusers", pictures, **BOTH), model)
    other, _ = house.run(_write(tmp_path / form, pictures, lora_format=form, **BOTH), model)

    names = load_file(other.adapter)
    expected, found = read_adapter(plain.adapter), read_adapter(other.adapter)
    assert detect(names) == form
    assert {name[: len(prefix)] for name in names for prefix in prefixes if name.startswith(prefix)} == set(prefixes)
    assert expected.layers.keys() == found.layers.keys()
    for name, layer in expected.layers.items():
        torch.testing.assert_close(found.layers[name].delta(), layer.delta(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_in_all_encoders_equal_an_independent_computation(tmp_path, model, pictures, checkpointing) -> None:
    """In float64, with encoders and tokenizers of stock transformers, and finite numbers for adapters."""
    made = _trainer(_write(tmp_path, pictures, gradient_checkpointing=checkpointing, **BOTH), model)
    made = _in_float64(made)
    parameters = parameters_of(made.trained)
    random = torch.Generator().manual_seed(5)
    for parameter in parameters.values():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=random) * 0.05
    one = made.batches.load(0)
    one = replace(one, latents=one.latents.double(), noise=one.noise.double())

    loss = made.learning.loss(one)
    loss.backward()

    expected = _expected(made, model, one, parameters)
    assert float(loss) == pytest.approx(float(expected), rel=1e-9)
    gradients = torch.autograd.grad(expected, list(parameters.values()))
    assert any(".SelfAttention." in name for name in parameters)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-12, msg=name)


def _in_float64(made):
    made.denoiser.module.double()
    for part in made.learning.texts.parts:
        part.module.double()
    return made


def _expected(made, model: Path, one, parameters) -> torch.Tensor:
    """The loss from stock classes, with the products of the adapters added to plain weights by hand."""
    pipeline = FluxPipeline.from_pretrained(model, torch_dtype=torch.float64)
    names = {"text_encoder.text_model": "text_encoder"}
    merged: dict[str, dict[str, torch.Tensor]] = {"transformer": {}, "text_encoder": {}, "text_encoder_2": {}}
    for name, down in parameters.items():
        if ".lora_A." not in name:
            continue
        part = next(
            one
            for one in ("transformer", "text_encoder.text_model", "text_encoder_2", "text_encoder")
            if name.startswith(f"{one}.")
        )
        layer = name.removeprefix(f"{part}.").partition(".lora_A.")[0]
        up = parameters[name.replace(".lora_A.", ".lora_B.")]
        where = names.get(part, part)
        weight = dict(pipeline.components[where].named_parameters())[f"{layer}.weight"]
        merged[where][f"{layer}.weight"] = weight.detach() + up @ down  # alpha is the rank

    def call(part: str, *args: object, **given: object):
        module = pipeline.components[part].eval()
        return torch.func.functional_call(module, merged[part], args, given)

    def ids(tokenizer, length: int) -> torch.Tensor:
        return tokenizer(
            list(one.captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    pooled = call("text_encoder", ids(pipeline.tokenizer, pipeline.tokenizer.model_max_length)).pooler_output
    tokens = call("text_encoder_2", ids(pipeline.tokenizer_2, 24))[0]
    sigma = made.learning.sigma(one)
    share = sigma.double().view(-1, 1, 1, 1)
    noisy = (1 - share) * one.latents + share * one.noise
    size, channels, height, width = noisy.shape
    (answer,) = call(
        "transformer",
        hidden_states=FluxPipeline._pack_latents(noisy, size, channels, height, width),
        timestep=sigma,
        guidance=torch.ones(size) if pipeline.transformer.config.guidance_embeds else None,
        pooled_projections=pooled,
        encoder_hidden_states=tokens,
        txt_ids=torch.zeros(24, 3, dtype=torch.float64),
        img_ids=FluxPipeline._prepare_latent_image_ids(size, height // 2, width // 2, "cpu", torch.float64),
        return_dict=False,
    )
    answer = FluxPipeline._unpack_latents(answer, height * 8, width * 8, 8)
    return ((answer - (one.noise - one.latents)) ** 2).mean()


def test_what_is_encoded_at_first_is_what_the_cache_holds(tmp_path, model, pictures) -> None:
    """New adapters change nothing, so that the live answer is the cached one up to its rounding to bf16."""
    made = _trainer(_write(tmp_path, pictures, t5_padding="zero", **BOTH), model)
    one = made.batches.load(0)

    with torch.no_grad():
        now = made.learning.texts.learned(one.captions)

    assert now.keys() == {"prompt_embeds", "pooled_prompt_embeds"}
    for name, tensor in now.items():
        torch.testing.assert_close(tensor.bfloat16(), one.conditioning[name], rtol=0.01, atol=1e-5)


def test_three_steps_and_three_more_are_six_steps_with_encoders(tmp_path, model, pictures) -> None:
    """With dropout of adapters and captions, recomputed blocks and accumulation."""
    options = {
        **BOTH,
        "lora_dropout": 0.2,
        "caption_dropout_probability": 0.3,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
        "checkpoint_step_interval": 3,
    }
    unbroken, heard = house.run(_write(tmp_path / "whole", pictures, **options), model)
    path = _write(tmp_path / "broken", pictures, **options)
    first, _ = house.run(path, model)
    shutil.rmtree(first.folder / "checkpoint-6")

    resumed, second = house.run(path, model)

    assert [one.loss for one in _steps(second)] == [one.loss for one in _steps(heard)][3:]
    expected, found = load_file(unbroken.adapter), load_file(resumed.adapter)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_recomputing_the_blocks_of_encoders_changes_nothing(tmp_path, model, pictures) -> None:
    """Bit for bit, with dropout."""
    options = {**BOTH, "lora_dropout": 0.2, "max_train_steps": 2}
    plain, _ = house.run(_write(tmp_path / "plain", pictures, **options), model)
    twice, _ = house.run(_write(tmp_path / "twice", pictures, gradient_checkpointing=True, **options), model)

    expected, found = load_file(plain.adapter), load_file(twice.adapter)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_encoders_learn_at_rates_of_their_own(tmp_path, model, pictures) -> None:
    """One rate holds for both, two for CLIP and T5; without any, that of the run."""

    def factors(folder: str, **options: object) -> dict[str, float]:
        made = _trainer(_write(tmp_path / folder, pictures, **{**BOTH, **options}), model)
        groups = made.trained.groups()
        return {next(iter(group.parameters)).partition(".")[0]: group.factor(1e-2) for group in groups}

    assert factors("none") == {"transformer": 1, "text_encoder": 1, "text_encoder_2": 1}
    assert factors("one", text_encoder_lr=1e-3) == {"transformer": 1, "text_encoder": 0.1, "text_encoder_2": 0.1}
    two = factors("two", text_encoder_lr="1e-3, 2e-3")
    assert two == pytest.approx({"transformer": 1, "text_encoder": 0.1, "text_encoder_2": 0.2})


def test_an_own_rate_beside_one_that_is_found_multiplies_what_is_found(tmp_path, model, pictures) -> None:
    """Not the share of a learning_rate that has no effect: 0.5 would be 5,000 times that of the transformer."""
    options = {**BOTH, "optimizer": "prodigy", "learning_rate": 1e-4, "text_encoder_lr": "0.5,1"}
    made = _trainer(_write(tmp_path, pictures, **options), model)
    assert [group["factor"] for group in made.updates.optimizer.param_groups] == [1, 0.5, 1]


def test_regularisation_compares_with_the_base_that_reads_captions_as_the_base_does(tmp_path, model, pictures) -> None:
    """Untrained adapters have nothing to unlearn; trained encoders alone are pulled back."""
    learned = house.data_set("subject", pictures)
    path = house.write_run(tmp_path, [house.data_set("known", pictures, is_regularisation_data=True), learned], **BOTH)
    made = _trainer(path, model)
    one = next(batch for number in range(9) if (batch := made.batches.load(number)).regularise)
    assert float(made.learning.loss(one)) == 0

    for name, parameter in parameters_of(made.trained).items():
        if name.startswith("text_encoder") and ".lora_B." in name:
            parameter.data.fill_(0.05)

    loss = made.learning.loss(one)
    loss.backward()
    assert float(loss) > 1e-6


def test_pictures_of_the_base_are_drawn_without_and_others_with_the_encoders_adapters(
    tmp_path, model, pictures
) -> None:
    """They are what a run without text encoders draws as its base, and drawing changes no step."""
    draw = {
        "validation_prompt": "a red circle",
        "validation_resolution": "64x64",
        "validation_num_inference_steps": 1,
        "validation_disable_unconditional": True,
    }
    options = {**BOTH, "lora_dropout": 0.2, "max_train_steps": 2, **draw}
    drawn, heard = house.run(_write(tmp_path / "a", pictures, validation_disable=False, **options), model)
    _, silent = house.run(_write(tmp_path / "b", pictures, **options), model)
    plain, _ = house.run(
        _write(tmp_path / "c", pictures, validation_disable=False, max_train_steps=1, tokenizer_max_length=24, **draw),
        model,
    )

    base, other = (next((one.folder / "benchmarks").rglob("*.png")).read_bytes() for one in (drawn, plain))
    assert _pixels(base) == pytest.approx(_pixels(other), abs=1)
    assert [one.loss for one in _steps(heard)] == [one.loss for one in _steps(silent)]


def _pixels(data: bytes):
    import io

    import numpy
    from PIL import Image

    return numpy.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)


def test_a_run_goes_on_from_a_file_for_all_of_it_and_starts_anew_what_the_file_does_not_have(
    tmp_path, model, pictures
) -> None:
    """init_lora: the parts of the file go on, a text encoder that it does not have begins at nothing."""
    first, _ = house.run(_write(tmp_path / "first", pictures, **CLIP), model)

    made = _trainer(_write(tmp_path / "second", pictures, init_lora=str(first.adapter), **BOTH), model)

    state = made.trained.adapter.state()
    assert state["text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight"].abs().sum() == 0
    ups = [one for name, one in state.items() if name.startswith("text_encoder.") and "lora_B" in name]
    assert all(one.any() for one in ups)


def test_packed_encoders_and_bf16_train_too(tmp_path, model, pictures) -> None:
    """Their adapters are beside packed weights, as the transformer's are."""
    options = {
        **BOTH,
        "learning_rate": 1e-3,
        "mixed_precision": "bf16",
        "base_model_precision": "int8-quanto",
        "text_encoder_1_precision": "int8-quanto",
        "text_encoder_2_precision": "int8-quanto",
        "max_train_steps": 3,
    }
    exact = [
        one.loss
        for one in _steps(
            house.run(_write(tmp_path / "a", pictures, **{**BOTH, "learning_rate": 1e-3, "max_train_steps": 3}), model)[
                1
            ]
        )
    ]

    outcome, heard = house.run(_write(tmp_path / "b", pictures, **options), model)

    assert [one.loss for one in _steps(heard)] == pytest.approx(exact, rel=0.02)
    assert _parts(outcome.adapter) == {"transformer", "text_encoder", "text_encoder_2"}


def test_the_norm_of_all_adapters_together_is_limited(tmp_path, model, pictures) -> None:
    """lora_max_norm holds for encoders too."""
    outcome, heard = house.run(_write(tmp_path, pictures, lora_max_norm=0.01, **BOTH), model)

    norms = [layer.delta().norm() for layer in read_adapter(outcome.adapter).layers.values()]
    assert max(norms) <= 0.01 * 1.001
    assert _steps(heard)[-1].metrics["adapter_norm_limited"] > 0


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"train_t5xxl": True}, "train_t5xxl: needs train_text_encoder"),
        ({**CLIP, "text_encoder_lr": 0}, "train_text_encoder: text_encoder_lr is 0, which trains none"),
        ({**CLIP, "text_encoder_lr": [1, 2, 3]}, "text_encoder_lr: needs one number, or two for CLIP and T5, got 3"),
        ({**CLIP, "model_type": "full", "lora_rank": None}, "train_text_encoder: is about an adapter"),
        (
            {**CLIP, "lora_type": "lycoris", "lycoris_config": {"algo": "lokr"}, "lora_rank": None},
            "train_text_encoder: a LyCORIS adapter is for the transformer alone",
        ),
        ({**CLIP, "model_family": "chroma"}, "train_text_encoder: this family's text encoders cannot be trained"),
    ],
)
def test_what_cannot_be_trained_together_is_refused(tmp_path, model, pictures, options, refusal: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(ConfigError, match=refusal):
        house.resolved(_write(tmp_path, pictures, **options), model)


def test_a_checkpoint_without_the_encoders_is_no_checkpoint_of_a_run_with_them(tmp_path, model, pictures) -> None:
    """Nothing is started anew unasked."""
    path = _write(tmp_path, pictures, max_train_steps=1)
    house.run(path, model)

    with pytest.raises((CheckpointError, ConfigError), match="train_text_encoder"):
        house.run(path, model, "train_text_encoder=true", "max_train_steps=2")
