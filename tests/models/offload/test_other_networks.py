"""Text encoders and the image encoder say the same when their weights wait elsewhere until they compute."""

import pytest
import torch
from diffusers import AutoencoderKL
from models.flux.single_files import bfl_autoencoder, clip_file, t5_file, written
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from simpletuner.errors import ModelError
from simpletuner.models.family import Compute, TextSettings, Weights
from simpletuner.models.flux.text import open_encoders
from simpletuner.models.flux.vae import open_codec
from simpletuner.models.offload import Groups, Leaves

CPU = Compute(torch.device("cpu"), torch.float32)
PLANS = {"groups": Groups(1), "groups of two": Groups(2), "leaves": Leaves(), "half": Leaves(percent=50)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Encoders whose matrices are large enough to be worth moving."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(4)
    clip = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=64, intermediate_size=512, num_hidden_layers=3, num_attention_heads=1,
        hidden_act="quick_gelu", eos_token_id=2, max_position_embeddings=77,
    ))  # fmt: skip
    t5 = T5EncoderModel(T5Config(
        vocab_size=32128, d_model=64, d_kv=16, d_ff=512, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu",
    ))  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(64,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    base = written(folder / "clip_l.safetensors", clip_file(clip))
    places = {
        "t5": written(folder / "t5.safetensors", t5_file(t5)),
        "vae": written(folder / "ae.safetensors", bfl_autoencoder(vae.state_dict())),
    }
    return Weights(str(base), str(base), "", **{name: str(path) for name, path in places.items()})


def encoded(weights, plan, precision="no_change"):
    settings = TextSettings((precision, precision), 16, "unmodified", offload=plan)
    with open_encoders(weights, settings, CPU) as encode:
        return [*encode(["a red ring"]), *encode(["two blue squares", "nothing"])]


def drawn(weights, plan):
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with open_codec(weights, CPU, tiling=False, slicing=False, plan=plan) as codec:
        latents = codec.encode(pixels)
        return [latents.mean, latents.std, codec.decode(latents.mean), codec.encode(-pixels).mean]


@pytest.mark.parametrize("precision", ["no_change", "int8-quanto"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_text_encoders_say_the_same_to_the_last_bit(weights, plan, precision):
    for one, other in zip(encoded(weights, plan, precision), encoded(weights, None, precision), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_image_encoder_gives_the_same_to_the_last_bit(weights, plan):
    assert all(torch.equal(*pair) for pair in zip(drawn(weights, plan), drawn(weights, None), strict=True))


def test_weights_wait_on_disk_where_that_is_asked_for(weights, tmp_path):
    plan = Groups(1, disk=tmp_path)
    with open_codec(weights, CPU, tiling=False, slicing=False, plan=plan):  # both at a time, in one folder
        for one, other in zip(encoded(weights, plan), encoded(weights, None), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in other)
    assert all(torch.equal(*pair) for pair in zip(drawn(weights, plan), drawn(weights, None), strict=True))


def test_what_another_process_keeps_in_the_same_folder_is_left_alone(weights, tmp_path):
    other = tmp_path / "weights-0-0.bin"
    other.write_bytes(b"of another process")
    encoded(weights, Groups(1, disk=tmp_path))
    assert other.read_bytes() == b"of another process"
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("use", [encoded, drawn])
def test_a_folder_that_cannot_be_written_is_told(weights, tmp_path, use):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="group_offload_to_disk_path"):
        use(weights, Groups(1, disk=tmp_path / "file"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
@pytest.mark.parametrize("plan", [Groups(1, is_overlapped=True), Leaves(is_overlapped=True)], ids=["groups", "leaves"])
def test_less_is_on_the_card_at_a_time(weights, plan):
    card = Compute(torch.device("cuda"), torch.float32)

    def held(plan):
        settings = TextSettings(("no_change", "no_change"), 16, "unmodified", offload=plan)
        torch.cuda.empty_cache()
        with open_encoders(weights, settings, card) as encode:
            before = torch.cuda.memory_allocated()
            found = encode(["a red ring"])
        return before, found

    (whole, plain), (moved, same) = held(None), held(plan)
    assert moved < whole
    for one, other in zip(same, plain, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
