"""What prompts become, with and without their padding."""

from functools import partial

import pytest
import tiny
import torch
from safetensors.torch import load_file

from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.models.family import Compute, TextSettings
from simpletuner.models.flux.text import ZERO, open_encoders
from simpletuner.progress import Recorded
from simpletuner.storage.local import LocalStore

PROMPTS = ["a red circle", "", "a blue square on a green ground"]
CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def encoder(model):
    def opened(padding="unmodified"):
        return open_encoders(tiny.weights(model), TextSettings(("no_change", "no_change"), 32, padding), CPU)

    return opened


def test_prompts_are_kept_in_bf16_at_full_length_with_a_mask_of_their_words(encoder):
    with encoder() as encode:
        found = encode(PROMPTS)
    for one in found:
        assert one["prompt_embeds"].dtype == one["pooled_prompt_embeds"].dtype == torch.bfloat16
        assert len(one["prompt_embeds"]) == len(one["prompt_mask"]) == 32
        assert one["prompt_embeds"].any(dim=1).all()
    words = [int(one["prompt_mask"].sum()) for one in found]
    assert words[1] == 1 and 1 < words[0] < words[2] < 32


def test_zero_padding_changes_nothing_but_the_padding(encoder):
    with encoder() as encode:
        usual = encode(PROMPTS)
    with encoder(padding=ZERO) as encode:
        zeroed = encode(PROMPTS)
    for one, other in zip(usual, zeroed, strict=True):
        mask = one["prompt_mask"]
        assert torch.equal(other["prompt_mask"], mask)
        assert torch.equal(other["prompt_embeds"][mask], one["prompt_embeds"][mask])
        assert not other["prompt_embeds"][~mask].view(torch.int16).any()
        assert torch.equal(other["pooled_prompt_embeds"], one["pooled_prompt_embeds"])


def test_a_prompt_with_zero_padding_takes_the_room_of_its_words_and_comes_back_whole(encoder, tmp_path):
    encoder = partial(encoder, padding=ZERO)
    cache, prompts = TensorCache(LocalStore(tmp_path), "r"), PromptCache()
    prompts.fill([(cache, PROMPTS)], encoder, 2, Recorded())
    with encoder() as encode:
        direct = encode(PROMPTS)
    for prompt, one in zip(PROMPTS, direct, strict=True):
        found = prompts[prompt]
        assert found.keys() == one.keys() and all(torch.equal(found[name], one[name]) for name in one)
        on_disk = load_file(tmp_path / cache.key(prompt))
        assert len(on_disk["prompt_embeds"]) == int(one["prompt_mask"].sum())
