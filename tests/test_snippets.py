"""What the pages show can be used as it stands: blocks of JSON, commands, programs in Python, options in the text."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_data_pages import known_words, named

from simpletuner.cli.choosing import chosen
from simpletuner.cli.main import app
from simpletuner.config import OWNER, SECTIONS, read
from simpletuner.demo import MODEL
from simpletuner.files import arguments, plain
from simpletuner.legacy import RENAMED
from simpletuner.schema import choice_of, refusals
from simpletuner.training.prompts import library

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("documentation/*.md"), *ROOT.glob("config/**/*.md")])
DATA_PAGES = {"DATALOADER.md", "KOHYA_DATA.md"}
"""Their blocks are entries of data files, which test_data_pages.py reads."""
DATA = [{"id": "subject", "instance_data_dir": "datasets/subject", "caption_strategy": "textfile", "resolution": 512}]
SINGLE_FILES: dict[str, dict[str, tuple[int, ...]]] = {
    "flux1-dev.safetensors": {
        **{name: (1, 64) for name in ("img_in.weight", "txt_in.weight", "vector_in.in_layer.weight")},
        "final_layer.linear.weight": (64, 1),
        "double_blocks.0.img_attn.norm.query_norm.scale": (1,),
        **{f"double_blocks.{number}.img_attn.qkv.weight": (3, 1) for number in range(19)},
        **{f"single_blocks.{number}.linear2.weight": (1, 5) for number in range(38)},
    },
    "ae.safetensors": {"decoder.conv_in.weight": (1,)},
    "clip_l.safetensors": {"text_model.embeddings.token_embedding.weight": (1,)},
    "t5xxl_fp16.safetensors": {"encoder.block.0.layer.0.SelfAttention.q.weight": (1,)},
}
"""Of each file as much as says what it is."""
ENVIRONMENT = {"DISCORD_WEBHOOK": "https://example.com/1", "STUDIO_TOKEN": "set"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def shown(language: str) -> Iterator[Any]:
    for page in PAGES:
        for number, block in enumerate(blocks(page, language), 1):
            yield pytest.param(page, block, id=f"{page.relative_to(ROOT).as_posix()}-{number}")


def value_of(block: str) -> Any:
    """A whole file, or some lines of an object."""
    return json.loads(block if block.lstrip()[0] in "[{" else f"{{{block}}}")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files and programs that the pages speak of."""
    (tmp_path / "config").mkdir()
    for folder in (tmp_path, tmp_path / "config"):
        written(folder / "multidatabackend.json", DATA)
        written(folder / "user_prompt_library.json", {"portrait": "a portrait"})
    for name in ("adapters/ink.safetensors", "programs/rsync", "programs/python", "notify"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch(mode=0o700)
    (tmp_path / "models").mkdir()
    for name, tensors in SINGLE_FILES.items():
        for folder in (tmp_path, tmp_path / "models"):
            save_file({tensor: np.zeros(shape, np.float32) for tensor, shape in tensors.items()}, folder / name)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("page", "block"), shown("json"))
def test_a_block_of_json_is_a_file_that_the_program_takes(page: Path, block: str, checkout: Path) -> None:
    value = value_of(block)
    if page.name in DATA_PAGES:
        return
    if isinstance(value, list):
        written(checkout / "multidatabackend.json", value)
        assert said_of({}, checkout) == []
    elif OWNER.keys() & {plain(key) for key in value}:
        assert said_of(value, checkout) == []
    else:
        assert library(written(checkout / "library.json", value))


def said_of(shown: dict[str, Any], folder: Path) -> list[object]:
    """Everything that there is to say about a config; what a block leaves out is that of the demo."""
    base = {"pretrained_model_name_or_path": str(MODEL), "data_backend_config": "multidatabackend.json"}
    path = written(folder / "config.json", {**base, **shown})
    reading = read(path, environment=ENVIRONMENT, folder=folder)
    return [*reading.problems, *reading.notices]


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(("page", "block"), shown("python"))
def test_a_program_on_a_page_can_be_read(page: Path, block: str) -> None:
    is_entry = block.startswith('"')
    ast.parse(f"{{{block}}}" if is_entry else block)


def commands(page: Path) -> list[list[str]]:
    """The words after `simpletuner` of every command on a page: in blocks, in the text, and in indented lines."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text) + re.findall(r"^    (simpletuner .+)$", text, re.MULTILINE)
    found = (re.match(r"(?:.* -m )?simpletuner ([a-z-].*)", line.partition(" #")[0]) for line in lines)
    return [shlex.split(one[1]) for one in found if one]


def complaint(words: list[str]) -> str | None:
    """What the command line would say against these words, whatever files there are."""
    command: click.Command = app
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        with click.Context(command) as context:
            found = command.get_command(context, words[0])
        if found is None:
            return f"there is no command {words[0]}"
        command, words = found, words[1:]
    try:
        with click.Context(command, **command.context_settings) as context:
            given, _, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return str(error)
    overrides = given.get("overrides")
    _, options = chosen(None, None, None, overrides if isinstance(overrides, tuple) else ())
    unknown = [name for name in arguments(options, OWNER) if plain(name) not in OWNER]
    return f"there is no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_on_a_page_are_ones_that_there_are(page: Path) -> None:
    wrong = {" ".join(words): said for words in commands(page) if (said := complaint(words))}
    assert wrong == {}


def test_commands_are_found_on_the_pages_and_wrong_ones_are_seen() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 40
    assert complaint(["train", "--env", "studio", "--lora_rank", "8", "seed=1"]) is None
    assert complaint(["train", "--lora_ranks", "8"]) == "there is no option lora_ranks"
    assert complaint(["export", "a.safetensors", "--formats", "kohya"]) is not None
    assert complaint(["cache", "tidy"]) == "there is no command tidy"


def settings(page: Path) -> Iterator[tuple[str, Any]]:
    """Options with their values in the text of a page, such as `model_type: full`."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for name, value in re.findall(r'`"?(\w+)"?: ([^`…]+)`', text.partition("<!-- generated: begin -->")[0]):
        if name in OWNER:
            yield name, json.loads(value) if re.match(r'[\[{"\d]|true|false', value) else value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_an_option_in_the_text_of_a_page_may_have_the_value_that_stands_there(page: Path) -> None:
    for name, value in settings(page):
        section = SECTIONS[OWNER[name]].model_validate({name: value})
        assert list(refusals(section)) == []


@pytest.mark.parametrize("name", ["CHECKPOINTS", "MEMORY", "OPTIMIZERS", "PROCESSES", "QUICKSTART", "TRAINING"])
def test_the_options_in_the_text_of_a_page_are_ones_that_there_are(name: str) -> None:
    prose = re.sub(r"^#.*$", "", (ROOT / "documentation" / f"{name}.md").read_text(encoding="utf-8"), flags=re.M)
    assert named(prose) - known_words() - CHOICES == OF_OTHERS.get(name, set())


def test_the_options_that_others_are_called_by_here_are_ones_that_there_are() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \| .*\|$", (ROOT / "documentation" / "MIGRATING.md").read_text(), re.MULTILINE)
    assert len(rows) > 40
    assert {word for _, ours in rows for word in named(ours)} - known_words() - CHOICES == set()
    same = {word for theirs, ours in rows if ours == "the same" for word in named(theirs)}
    read_as_they_are = {word for theirs, ours in rows if ours.startswith("read") for word in named(theirs)}
    assert same <= known_words() and read_as_they_are <= RENAMED.keys()


CHOICES = {
    word for section in SECTIONS.values() for field in section.model_fields.values() for word in choice_of(field) or ()
}
OF_OTHERS = {
    "CHECKPOINTS": {"global_step", "huggingface_path", "local_checkpoint_path", "remote_checkpoint_path"},
    "MEMORY": {"dora_wd"},
    "OPTIMIZERS": {"cosine_with_min_lr", "dadapt_d", "prodigy_d", "relative_step", "weight_decay"},
    "QUICKSTART": {"validation_images"},
    "TRAINING": {"discrete_flow_shift", "random_masks", "timestep_sampling", "weighting_scheme"},
}
"""Names of settings inside options, of metrics, of folders, and of other programs."""
