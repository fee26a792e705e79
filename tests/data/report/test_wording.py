"""What is found in the captions of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simpletuner.data.dataset import Dataset
from simpletuner.data.report.wording import Tokenizers, wording
from simpletuner.progress import Recorded
from tests.data.folders import opened, save


def captioned(root: Path, captions: dict[str, str], **options: Any) -> Dataset:
    for seed, (stem, text) in enumerate(captions.items()):
        save(root / "images" / f"{stem}.png", seed=seed)
        (root / "images" / f"{stem}.txt").write_text(text)
    entry = {"id": "a", "instance_data_dir": str(root / "images"), "caption_strategy": "textfile", **options}
    (dataset,) = opened(entry, cache=root / "cache")
    return dataset


def by_words(texts: Sequence[str]) -> list[tuple[int, int]]:
    return [(len(text.split()), 2 * len(text.split())) for text in texts]


def test_captions_are_counted_and_odd_ones_named(tmp_path: Path) -> None:
    captions = {"a": "a cat, night", "b": "a dog, night", "c": "a dog, night", "d": "see https://example.com"}
    found = wording(captioned(tmp_path, captions), None, Recorded())
    assert (found.statistics.captions, found.statistics.distinct, found.tokens) == (4, 3, None)
    assert found.statistics.tags[:2] == (("night", 3), ("a dog", 2))
    assert {(odd.kind, odd.count) for odd in found.odd} == {("duplicate", 2), ("address", 1)}
    (address,) = (odd for odd in found.odd if odd.kind == "address")
    assert address.examples == ((str(tmp_path / "images" / "d.png"), "https://example.com"),)
    (duplicate,) = (odd for odd in found.odd if odd.kind == "duplicate")
    assert duplicate.examples == (("b.png, c.png", "a dog, night"),)


def test_tokens_are_those_that_the_tokenizers_count(tmp_path: Path) -> None:
    dataset = captioned(tmp_path, {"a": "one", "b": "one two three", "c": "one two three four five"})
    tokens = wording(dataset, Tokenizers(by_words, (3, 8)), Recorded()).tokens
    assert tokens is not None
    assert (tokens.longest, tokens.cut, tokens.limits) == ((5, 10), (1, 1), (3, 8))
    assert tokens.examples == ((str(tmp_path / "images" / "c.png"), 10, "one two three four five"),)
    assert sum(one.count for one in tokens.lengths) == 3


def test_every_line_of_a_caption_file_is_counted(tmp_path: Path) -> None:
    dataset = captioned(tmp_path, {"a": "one\none two three four", "b": "two"})
    tokens = wording(dataset, Tokenizers(by_words, (9, 7)), Recorded()).tokens
    assert tokens is not None and tokens.cut == (0, 1)


def test_an_empty_caption_with_a_fallback_is_told(tmp_path: Path) -> None:
    dataset = captioned(tmp_path, {"a": "", "b": "a dog"}, caption_fallback="a picture")
    found = wording(dataset, None, Recorded())
    assert [(odd.kind, odd.count, odd.is_serious) for odd in found.odd] == [("empty", 1, False)]
    assert found.odd[0].meaning == "There is a caption, but nothing is in it. The caption_fallback is used."
