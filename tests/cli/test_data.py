"""``simpletuner data report`` as a user meets it: a table, advice, and a page that is looked at in a real browser."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from simpletuner.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command said, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def simpletuner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; an exception that gets out of it fails the test."""

    def run(folder: Path, *words: str) -> Done:
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["simpletuner", *words])
            try:
                main()
                code = 0
            except SystemExit as stopped:
                code = int(stopped.code or 0)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


@pytest.fixture
def folder(tmp_path: Path, root: Path) -> Path:
    """A working folder with a config and two pictures that look alike."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, size in {"a cat": (256, 128), "a dog": (128, 128), "the sea": (300, 100)}.items():
        Image.effect_noise(size, 90).convert("RGB").save(pictures / f"{name}.png")
    shutil.copy(pictures / "a cat.png", pictures / "a cat again.png")
    data = [{"id": "subject", "instance_data_dir": "pictures", "crop": True, "resolution": 128}]
    config = {
        "data_backend_config": "data.json",
        "output_dir": "output",
        "pretrained_model_name_or_path": str(root / "simpletuner" / "demo" / "model"),
    }
    (tmp_path / "data.json").write_text(json.dumps(data))
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


REPORT = ("data", "report", "--config", "config.json")


def test_a_table_and_advice_are_printed_and_a_page_is_written(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, *REPORT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "data set images left out buckets cropped alike words batches" in lines
    assert "subject 4 0 1 42% 1 2.2 4" in lines
    assert any(line.startswith("serious subject: 1 image looks like another one, in 1 group.") for line in lines)
    assert lines[-1] == "page: output/data_report.html"
    assert "<title>Data sets of" in (folder / "output" / "data_report.html").read_text(encoding="utf-8")


def test_the_page_goes_where_it_is_asked_for(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, *REPORT, "--output", "pages/mine.html", "--no-thumbnails", "--no-duplicates")
    assert done.returncode == 0
    assert "data:image" not in (folder / "pages" / "mine.html").read_text(encoding="utf-8")
    assert not (folder / "output").exists()


def test_options_of_the_config_can_be_given_too(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, *REPORT, "train_batch_size=3")
    assert "subject 4 0 1 42% 1 2.2 2" in [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_tokens_are_counted_by_the_model_or_it_is_said_why_not(simpletuner: Run, folder: Path) -> None:
    page = folder / "output" / "data_report.html"
    simpletuner(folder, *REPORT)
    assert "As T5 counts them. It reads 24 of each text" in page.read_text(encoding="utf-8")
    done = simpletuner(folder, *REPORT, "pretrained_model_name_or_path=somebody/something")
    assert "note: Tokens were not counted: the tokenizers of 'somebody/something' are not on this" in done.stdout
    assert "Tokens were not counted" in page.read_text(encoding="utf-8")


def test_images_are_only_read(simpletuner: Run, folder: Path) -> None:
    def state() -> list[tuple[str, bytes, int]]:
        return [(path.name, path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.glob("pictures/*"))]

    before = state()
    simpletuner(folder, *REPORT)
    assert state() == before


def test_a_config_that_cannot_be_used_is_told_as_everywhere(simpletuner: Run, folder: Path) -> None:
    done = simpletuner(folder, *REPORT, "lora_rnk=8")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'lora_rank'?" in done.stderr


def test_a_page_that_cannot_be_written_is_told(simpletuner: Run, folder: Path) -> None:
    (folder / "file").write_text("")
    done = simpletuner(folder, *REPORT, "--output", "file/page.html")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write file/page.html: ")


def test_that_a_page_cannot_be_written_is_told_before_the_work(simpletuner: Run, folder: Path) -> None:
    (folder / "page.html").mkdir()
    done = simpletuner(folder, *REPORT, "--output", "page.html")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: cannot write page.html: ")
    assert not (folder / "output").exists() and not (folder / "cache").exists()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_browser_wide_and_narrow_and_asks_for_nothing(
    simpletuner: Run, folder: Path, scheme: str
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    assert simpletuner(folder, *REPORT).returncode == 0
    asked: list[str] = []
    with playwright.sync_playwright() as run, run.chromium.launch(executable_path=chromium, args=BROWSER) as browser:
        for width in (1280, 375):
            page = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}).new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: asked.append(message.text))
            page.goto((folder / "output" / "data_report.html").as_uri())
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            assert page.locator("figure svg image").count() >= 4
            assert page.get_by_role("heading", name="subject", exact=True).is_visible()
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, paper[4:-1].split(","))) < 300) == (scheme == "dark")


BROWSER = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
