"""The pictures the demo is made of: shapes for pretraining, zorbs for the data set."""

import subprocess
import sys
from itertools import combinations
from pathlib import Path
from random import Random

from PIL import Image

from simpletuner.demo import shapes, zorb


def test_the_same_randomness_draws_the_same_picture() -> None:
    scene = shapes.Scene("red", "star", "white")

    assert shapes.draw(scene, Random(1)) == shapes.draw(scene, Random(1))
    assert shapes.draw(scene, Random(1)) != shapes.draw(scene, Random(2))


def test_a_caption_names_everything_that_is_drawn() -> None:
    scene = shapes.Scene("orange", "ring", "light blue", "left", "small")

    for caption in shapes.captions(scene):
        assert all(word in caption for word in ("small", "orange", "ring", "left", "light blue"))


def test_a_caption_leaves_out_what_goes_without_saying() -> None:
    assert shapes.captions(shapes.Scene("orange", "ring", "grey"))[0] == "an orange ring on a grey background"


def test_no_two_scenes_share_a_caption() -> None:
    captions = [caption for scene in shapes.scenes() for caption in shapes.captions(scene)]

    assert len(set(captions)) == len(captions)


def test_pretraining_sees_every_pair_of_words_though_not_every_mixture() -> None:
    seen = [scene for scene in shapes.scenes() if not scene.is_held_out]

    assert 0.85 < len(seen) / len(list(shapes.scenes())) < 0.95
    assert _pairs(seen) == _pairs(list(shapes.scenes()))


def test_the_data_set_has_a_caption_for_every_zorb(tmp_path: Path) -> None:
    zorb.draw_data_set(tmp_path)

    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 24
    assert {path.name for path in tmp_path.iterdir()} == {
        path.with_suffix(suffix).name for path in pictures for suffix in (".png", ".txt")
    }
    assert all(Image.open(path).size == (128, 128) for path in pictures)
    assert "a red zorb on a white background\n" in {path.with_suffix(".txt").read_text() for path in pictures}


def test_drawing_the_data_set_again_touches_nothing(tmp_path: Path) -> None:
    zorb.draw_data_set(tmp_path)
    edited = tmp_path / "zorb-red-white.txt"
    edited.write_text("my own caption")
    own = tmp_path / "holiday.png"
    own.write_bytes(b"mine")
    before = _contents(tmp_path)

    zorb.draw_data_set(tmp_path)

    assert _contents(tmp_path) == before


def test_drawing_the_data_set_again_brings_back_what_is_missing(tmp_path: Path) -> None:
    zorb.draw_data_set(tmp_path)
    picture = tmp_path / "zorb-blue-light-blue.png"
    before = picture.read_bytes()
    picture.unlink()

    zorb.draw_data_set(tmp_path)

    assert picture.read_bytes() == before


def test_drawing_needs_no_torch() -> None:
    program = "import sys, simpletuner.demo.measure; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def _pairs(scenes: list[shapes.Scene]) -> set[tuple[str, str]]:
    words = ((scene.colour, scene.shape, scene.background, scene.position) for scene in scenes)
    return {pair for four in words for pair in combinations(four, 2)}


def _contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
