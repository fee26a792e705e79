"""Files of prompts mean what their programs mean by them, and what cannot be meant is refused in the user's words."""

import json
from pathlib import Path

import pytest
from PIL import Image

from simpletuner.training.collection import COLLECTION
from simpletuner.training.options import Validation
from simpletuner.training.prompts import Shot, shots, texts
from simpletuner.training.wishes import Wish, from_line, read


def written(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def drawn(**options: object) -> tuple[Shot, ...]:
    given = {"validation_disable_unconditional": True, "validation_resolution": "64x96", **options}
    return shots(Validation.model_validate(given), 5)


@pytest.mark.parametrize(
    ("line", "wish"),
    [
        ("a cat", Wish("a cat")),
        ("a cat --n a dog --w 512 --h 768 --d 7", Wish("a cat", negative="a dog", width=512, height=768, seed=7)),
        ("a cat --S 12 --L 4.5 --G 3", Wish("a cat", steps=12, real=4.5, guidance=3.0)),
        ("a cat --w 530", Wish("a cat", width=528, height=528)),
        ("a cat --h 20", Wish("a cat", width=64, height=64)),
        ("a half--hearted cat --d 1 --d 2", Wish("a half--hearted cat", seed=2)),
        ("a cat --ss euler_a --fs 3 --ctr 0.5", Wish("a cat")),
        ("a cat --cn pose.png", Wish("a cat", image="pose.png")),
    ],
)
def test_a_line_of_sd_scripts_is_understood(line: str, wish: Wish) -> None:
    assert from_line(line, "here") == wish


def test_the_three_kinds_of_files_of_sd_scripts_ask_for_the_same(tmp_path: Path) -> None:
    text = written(
        tmp_path,
        "a.txt",
        "# two prompts\n\na cat --n bad --w 512 --h 512 --d 3 --s 9 --l 2 --g 4\na dog --n bad --s 9\n",
    )
    toml = written(
        tmp_path,
        "a.toml",
        '[prompt]\nnegative_prompt = "bad"\nsample_steps = 9\n[[prompt.subset]]\nprompt = "a cat"\nwidth = 512\n'
        'height = 512\nseed = 3\nscale = 2\nguidance_scale = 4\n[[prompt.subset]]\nprompt = "a dog"\n',
    )
    objects = [
        {"prompt": "a cat", "negative_prompt": "bad", "width": 512, "height": 512, "seed": 3, "sample_steps": 9}
        | {"scale": 2, "guidance_scale": 4},
        "a dog --n bad --s 9",
    ]
    found = [read(text), read(toml), read(written(tmp_path, "a.json", objects))]
    assert found[0] == {
        "01": Wish("a cat", negative="bad", width=512, height=512, seed=3, steps=9, real=2.0, guidance=4.0),
        "02": Wish("a dog", negative="bad", steps=9),
    }
    assert found[1] == found[0] and found[2] == found[0]


def test_a_library_may_bring_settings_for_each_prompt(tmp_path: Path) -> None:
    given = {
        "plain": "a cat",
        "own": {"prompt": "a dog", "resolution": "128x64", "seed": 9, "steps": 3, "guidance": 2.5, "guidance_real": 4},
        "old": {"caption": "a bird", "bbox_entities": []},
    }
    path = written(tmp_path, "prompts.json", given)
    size = {"validation_resolution": "64x64,96x96", "validation_guidance_real": 1.0, "num_validation_images": 2}
    found = drawn(user_prompt_library=str(path), **size, validation_negative_prompt="bad")
    assert [(shot.name, shot.width, shot.height, shot.seed) for shot in found] == [
        *[("plain", 64, 64, 5), ("plain", 64, 64, 6), ("own", 128, 64, 9), ("own", 128, 64, 10)],
        *[("old", 64, 64, 5), ("old", 64, 64, 6), ("plain", 96, 96, 5), ("plain", 96, 96, 6)],
        *[("old", 96, 96, 5), ("old", 96, 96, 6)],
    ]
    own = found[2]
    assert (own.steps, own.guidance, own.real, own.negative) == (3, 2.5, 4.0, "bad")
    options = Validation(user_prompt_library=str(path), validation_negative_prompt="bad")
    assert texts(options, found) == ["a cat", "a dog", "a bird", "bad"]


def test_the_collection_comes_first_and_names_stay_apart(tmp_path: Path) -> None:
    path = written(tmp_path, "prompts.json", {"owl": "an owl", "über/x": "a bear"})
    options = {"validation_prompt_library": True, "user_prompt_library": str(path), "validation_prompt": "a cat"}
    names = [shot.name for shot in drawn(**options, validation_disable_unconditional=False)]
    assert names == [*COLLECTION, "owl-2", "über-x", "validation", "unconditional"]
    assert len(COLLECTION) == 54 and len(set(COLLECTION.values())) == 54


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "a.txt",
            "a cat --x 3",
            "line 1 of '{}' has --x, which is not known; known are --n, --w, --h, --d, --s, --l, --g,",
        ),
        ("a.txt", "\n\n--w 512", "line 3 of '{}' has no prompt"),
        ("a.txt", "a cat --w wide", "line 1 of '{}' has 'wide' for 'width', which it cannot be"),
        ("a.txt", "a cat --w 4000000 --h 64", "line 1 of '{}' has '4000000' for 'width', which it cannot be"),
        ("a.json", '{"a": {"prompt": "a cat", "resolution": "20000x64"}}', "'a' in '{}' has '20000x64' for"),
        ("a.txt", "a cat --d -3", "line 1 of '{}' has '-3' for 'seed', which it cannot be"),
        ("a.txt", "# nothing\n", "'{}' has no prompt in it"),
        ("a.toml", "[prompt", "'{}' is not TOML"),
        ("a.toml", "x = 1", "'{}' has no table [prompt]"),
        ("a.json", [3], "prompt 1 of '{}' is neither a text nor an object with a prompt"),
        ("a.json", [{"width": 3}], "prompt 1 of '{}' has no prompt"),
        ("a.json", {"cat": {"prompt": "a cat", "sed": 3}}, "'cat' in '{}' has 'sed', which is not known; known are"),
        ("a.json", {"cat": {"prompt": "a cat", "steps": 0}}, "'cat' in '{}' has 0 steps; give 1 to 1000"),
        ("a.json", {"cat": {"prompt": "a cat", "strength": 2}}, "'cat' in '{}' has strength 2; give a number above 0"),
        (
            "a.json",
            {"cat": {"prompt": "a cat", "adapter_strength": "nan"}},
            "'cat' in '{}' has 'nan' for 'adapter_strength', which it cannot be",
        ),
        (
            "a.json",
            {"cat": {"prompt": "a cat", "adapter_strength": True}},
            "'cat' in '{}' has True for 'adapter_strength'",
        ),
        ("a.json", [{"prompt": "a", "name": "x"}, {"prompt": "b", "name": "x"}], "'{}' has two prompts called 'x'"),
        ("a.json", "{", "'{}' is not JSON"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, name: str, content: object, complaint: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError) as error:
        read(path)
    assert complaint.format(path) in str(error.value)


def test_a_prompt_may_have_a_strength_of_the_adapter(tmp_path: Path) -> None:
    """Of 0 and 1 too, and below 0, as for sliders; a prompt of `validation_input` may have one as well."""
    given = {str(one): {"prompt": "a cat", "adapter_strength": one} for one in (0, 1, 0.5, 2.5, -1, "0.25", None)}
    found = drawn(user_prompt_library=str(written(tmp_path, "prompts.json", given)))
    assert [shot.adapter_strength for shot in found] == [0.0, 1.0, 0.5, 2.5, -1.0, 0.25, 1.0]
    toml = written(tmp_path, "a.toml", '[prompt]\nadapter_strength = 0.5\n[[prompt.subset]]\nprompt = "a cat"\n')
    assert read(toml) == {"01": Wish("a cat", adapter_strength=0.5)}
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    entries = [{"path": str(tmp_path / "a.png"), "prompt": "a cat", "adapter_strength": 0.5}]
    assert [shot.adapter_strength for shot in drawn(validation_input=entries)] == [0.5]


@pytest.mark.parametrize("content", [{}, []])
def test_a_library_without_entries_has_no_prompts(tmp_path: Path, content: object) -> None:
    path = written(tmp_path, "prompts.json", content)
    assert read(path) == {} and drawn(user_prompt_library=str(path)) == ()


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("eine schöne Katze".encode("latin-1"))
    with pytest.raises(ValueError, match="is not text in UTF-8; save it as that"):
        read(path)


def test_pictures_to_start_from_give_their_shape_and_are_drawn_alone(tmp_path: Path) -> None:
    Image.new("RGB", (400, 100)).save(tmp_path / "wide.png")
    entries = [{"path": "wide.png", "prompt": "a river"}, {"path": str(tmp_path / "wide.png"), "prompt": "a road"}]
    entries[1] |= {"shortname": "road", "strength": 0.3, "resolution": "64x64"}
    path = written(tmp_path, "inputs.json", entries)
    found = drawn(validation_input=str(path), validation_prompt="a cat", validation_resolution="256")
    assert [(shot.name, shot.width, shot.height) for shot in found] == [
        ("validation_input_0_wide", 512, 128),
        ("road", 64, 64),
    ]
    starts = [shot.start for shot in found]
    assert starts[0] and starts[1] and starts[0].digest == starts[1].digest
    assert (starts[0].strength, starts[1].strength) == (0.6, 0.3)
    same = drawn(validation_input=json.dumps(entries[1:]), validation_resolution="256")
    assert same == found[1:]
