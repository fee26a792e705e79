"""Counting tokens with the tokenizers of the model itself."""

from pathlib import Path

import pytest
import tiny
from transformers import AutoTokenizer

from simpletuner.errors import ModelError
from simpletuner.models.flux.tokens import open_counters


@pytest.fixture
def demo(root: Path) -> Path:
    """The model that comes along."""
    return root / "simpletuner" / "demo" / "model"


def test_both_tokenizers_count_what_they_would_encode(demo: Path) -> None:
    count, limits = open_counters(tiny.weights(demo), None)
    texts = ["a red square on a white background", "", "unheard-of words: zyxwv", "a " * 600]
    own = [AutoTokenizer.from_pretrained(demo / name) for name in ("tokenizer", "tokenizer_2")]
    assert count(texts) == [tuple(len(one.encode(text, verbose=False)) for one in own) for text in texts]
    assert limits == (24, 24)


def test_the_length_of_the_config_holds_for_t5(demo: Path) -> None:
    assert open_counters(tiny.weights(demo), 16)[1] == (24, 16)


def test_a_model_that_is_not_on_this_machine_is_not_downloaded_for_it() -> None:
    with pytest.raises(ModelError, match="the tokenizers of 'somebody/something' are not on this machine yet"):
        open_counters(tiny.weights("somebody/something"), None)


def test_a_folder_without_tokenizers_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="should have the folders tokenizer and tokenizer_2"):
        open_counters(tiny.weights(tmp_path), None)
