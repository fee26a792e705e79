"""What people wrote about the project is true: files exist, links lead somewhere, messages are real, configs valid."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from simpletuner import errors
from simpletuner.config import load
from simpletuner.selection import Selection

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "config/**/*.md", "datasets/*.md", "documentation/*.md")
    for path in ROOT.glob(pattern)
    if "output" not in path.parts
)
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]


def relative(path):
    return path.relative_to(ROOT).as_posix()


def prose(path):
    """A page without its blocks of code, which may hold anything."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(path):
    return re.findall(r"\]\(([^)\s]+)\)", prose(path))


def headings(path, level="#+"):
    return re.findall(rf"^{level} (.+)$", prose(path), flags=re.MULTILINE)


def anchor(heading):
    """What a heading is called in an address, as forges have it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_to_files_and_headings_that_exist(page):
    broken = []
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        name, _, part = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (part and part not in map(anchor, headings(target))):
            broken.append(link)
    assert not broken


def test_every_error_has_a_section_in_troubleshooting():
    classes = {name for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Exception)}
    assert classes <= set(headings(ROOT / "documentation" / "TROUBLESHOOTING.md", "##"))


def test_the_messages_in_troubleshooting_are_those_of_the_program():
    said = "\n".join(texts())
    quoted = re.findall(r"`([^`]+)`", "\n".join(headings(ROOT / "documentation" / "TROUBLESHOOTING.md", "###")))
    assert len(quoted) > 20
    unknown = [part for message in quoted for part in message.split("…") if part.strip() and part.strip() not in said]
    assert not unknown


def texts():
    """Every text in the program; pieces of one message are joined, with the place of each value left out."""
    for path in (ROOT / "simpletuner").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("page", READMES, ids=relative)
def test_the_file_map_names_what_is_there(page):
    named = file_map(page)
    assert named and not [name for name in named if not (ROOT / name).exists()]
    packages = {path.parent for path in (ROOT / "simpletuner").glob("*/__init__.py")}
    assert {f"{relative(path)}/" for path in packages} <= set(named)


def file_map(page):
    return re.findall(r"^\| `([^`]+)` \|", prose(page).rpartition("\n## ")[0].rpartition("\n## ")[2], re.MULTILINE)


def test_both_languages_show_the_same_tables_and_commands():
    english, chinese = ([re.sub(r"#.*", "", block).split() for block in blocks(page, "bash")] for page in READMES)
    assert [words for words in english if words[0] != "git"] == [words for words in chinese if words[0] != "git"]
    assert [row_heads(page) for page in READMES][0].keys() == [row_heads(page) for page in READMES][1].keys()


def row_heads(page):
    return dict.fromkeys(re.findall(r"^\| (`[^|]+`) \|", page.read_text(encoding="utf-8"), re.MULTILINE))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", READMES, ids=relative)
def test_the_two_commands_are_the_ones_that_work_on_a_fresh_machine(page):
    commands = [line.partition("#")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    assert {"./train.sh --example demo", "./scripts/test"} <= set(commands)
    assert os.access(ROOT / "train.sh", os.X_OK) and os.access(ROOT / "scripts" / "test", os.X_OK)


def quickstart():
    """The files of the quickstart in the order in which they are shown: for 24 GB, then for 12 GB."""
    page = ROOT / "documentation" / "QUICKSTART.md"
    large, data, library, small, small_data = map(json.loads, blocks(page, "json"))
    return {"24 GB": (large, data, library), "12 GB": (small, small_data, library)}


@pytest.mark.parametrize("card", ["24 GB", "12 GB"])
def test_the_configs_of_the_quickstart_pass_the_check(card, tmp_path, monkeypatch):
    names = ("config.json", "multidatabackend.json", "user_prompt_library.json")
    (tmp_path / "config").mkdir()
    (tmp_path / "datasets" / "subject").mkdir(parents=True)
    for name, content in zip(names, quickstart()[card], strict=True):
        (tmp_path / "config" / name).write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    reading = load(Selection(), environment={})
    assert not reading.notices


def test_every_benchmark_is_described_and_explains_itself():
    page = (ROOT / "documentation" / "BENCHMARKS.md").read_text(encoding="utf-8")
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"setting.py"}
    assert scripts == set(re.findall(r"python benchmarks/(\w+\.py)", page))


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_a_benchmark_begins_with_what_it_is_for(name):
    assert ast.get_docstring(ast.parse((ROOT / "benchmarks" / name).read_text(encoding="utf-8")))


def test_a_benchmark_runs():
    command = [sys.executable, "benchmarks/scan.py", "--images", "5", "--repeats", "1"]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "| open_all, second run " in shown and "times as fast as the first" in shown


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_contributors_are_told_the_layers_that_are_checked():
    layers = project()["tool"]["importlinter"]["contracts"][0]["layers"]
    checked = [name.strip().removeprefix("simpletuner.") for layer in layers for name in layer.split("|")]
    told = re.findall(r"^\d+\. (.+)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall(r"`(\w+)`", "\n".join(told)) == checked


def test_every_extra_is_in_the_table_of_the_installation():
    table = (ROOT / "INSTALL.md").read_text(encoding="utf-8").partition("| extra |")[2].partition("\n\n")[0]
    assert (
        set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == project()["project"]["optional-dependencies"].keys()
    )
