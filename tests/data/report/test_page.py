"""The whole report: what is worth a look, and a page that holds everything and needs nothing."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simpletuner.data.report.inspection import Report, Wishes, inspect
from simpletuner.data.report.page import render, share, within
from simpletuner.data.report.wording import Tokenizers
from simpletuner.progress import Recorded
from tests.data.folders import folder, opened_whole, save

ODD_NAME = '<script>alert(1)</script> & "co" 写真'


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Pictures of all kinds, with a copy, a damaged one, a small one and odd names."""
    root = tmp_path / "images"
    folder(root, {"a.png": (128, 128), "b.jpg": (300, 100), "c.png": (100, 128), "d.png": (16, 16)})
    save(root / "odd" / (ODD_NAME.replace("/", "_") + ".png"), (128, 96), seed=8)
    shutil.copy(root / "a.png", root / "copy.png")
    whole = (root / "b.jpg").read_bytes()
    (root / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    return root


def reported(root: Path, *raw: dict[str, Any], wishes: Wishes | None = None, **defaults: Any) -> Report:
    whole = opened_whole(*raw, cache=root / "cache", **defaults).whole
    return inspect(whole, root / "cache", wishes or Wishes(), Recorded())


def one(images: Path, **options: Any) -> dict[str, Any]:
    return {"id": "subject", "instance_data_dir": str(images), "resolution_type": "pixel", **options}


def rendered(report: Report) -> str:
    return render(report, title="Data sets of <config>", made="a test")


def test_what_to_look_at_is_told_with_the_most_serious_first(images: Path, tmp_path: Path) -> None:
    report = reported(tmp_path, one(images, crop=True, crop_style="center", minimum_image_size=20))
    assert [(finding.weight, finding.what) for finding in report.findings[0]] == [
        ("serious", "1 image cannot be decoded"),
        ("notable", "1 file is left out: smaller than minimum_image_size (20 px)"),
        ("notable", "1 image looks like another one, in 1 group"),
        ("notable", "2 images lose more than 25% of the picture by cropping"),
    ]


def test_captions_that_t5_cuts_off_are_serious(images: Path, tmp_path: Path) -> None:
    tokenizers = Tokenizers(lambda texts: [(1, 600)] * len(texts), (77, 512))
    report = reported(tmp_path, one(images), wishes=Wishes(tokenizers=tokenizers, alike=False))
    (finding,) = (finding for finding in report.findings[0] if "T5" in finding.what)
    assert (finding.weight, finding.advice) == ("serious", "Their ends are never seen. Shorten them.")


def test_images_of_an_evaluation_set_that_are_trained_on_are_told(images: Path, tmp_path: Path) -> None:
    (tmp_path / "held out").mkdir()
    shutil.copy(images / "a.png", tmp_path / "held out" / "x.png")
    evaluation = {"id": "held out", "dataset_type": "eval", "instance_data_dir": str(tmp_path / "held out")}
    report = reported(tmp_path, one(images), evaluation)
    assert [finding.what for finding in report.between] == ["1 image is in both 'subject' and 'held out'"]


def test_a_folder_listed_for_two_resolutions_shares_nothing_by_mistake(images: Path, tmp_path: Path) -> None:
    assert reported(tmp_path, one(images), {**one(images), "id": "large", "resolution": 128}).between == ()


def test_a_tidy_data_set_has_nothing_to_look_at(tmp_path: Path) -> None:
    folder(tmp_path / "images", {f"a red thing {letter}.png": (64, 64) for letter in "abcd"})
    report = reported(tmp_path, one(tmp_path / "images"))
    assert report.findings == ((),)
    assert "Nothing odd was found." in rendered(report)


def test_batches_of_an_epoch_are_those_of_training(tmp_path: Path) -> None:
    folder(tmp_path / "images", {f"{number}.png": (64, 64) for number in range(5)})
    report = reported(tmp_path, one(tmp_path / "images", repeats=2), {**one(tmp_path / "images"), "id": "b"})
    assert (report.parts[0].facts.batches, report.parts[1].facts.batches, report.batches_per_epoch) == (8, 3, 11)


class _Seen(HTMLParser):
    """The tags of a page, and those that are open at its end."""

    VOID = frozenset({"meta", "link", "br", "image", "path", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def seen(page: str) -> _Seen:
    parser = _Seen()
    parser.feed(page)
    return parser


def test_the_page_is_whole_and_needs_no_other_file(images: Path, tmp_path: Path) -> None:
    found = seen(rendered(reported(tmp_path, one(images), {**one(images), "id": "again", "crop": True})))
    assert found.open == []
    assert "script" not in found.tags
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert {address[1:] for address in found.addresses if address.startswith("#")} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


def test_names_from_outside_stay_text(images: Path, tmp_path: Path) -> None:
    page = rendered(reported(tmp_path, one(images, id="<b>set</b>")))
    assert "<script" not in page and "<b>set</b>" not in page
    assert "&lt;script&gt;alert(1)&lt;_script&gt; &amp; &#34;co&#34; 写真" in page
    assert "Data sets of &lt;config&gt;" in page


def test_the_page_shows_what_is_cropped_away_and_what_is_alike(images: Path, tmp_path: Path) -> None:
    page = rendered(reported(tmp_path, one(images, crop=True)))
    assert 'aria-label="b.jpg: 300x100, shrunk to 64%, 67% cropped away"' in page
    assert "2 images, the same file" in page
    assert page.count("data:image/webp") >= 6


def test_without_thumbnails_the_page_has_no_pictures(images: Path, tmp_path: Path) -> None:
    page = rendered(reported(tmp_path, one(images), wishes=Wishes(thumbnails=False)))
    assert "data:image" not in page
    assert "2 images, the same file" in page


def test_without_opening_images_nothing_is_said_about_likeness(images: Path, tmp_path: Path) -> None:
    report = reported(tmp_path, one(images), wishes=Wishes(alike=False, thumbnails=False))
    assert "This was not looked for." in rendered(report)
    assert not (tmp_path / "cache" / "report").exists()


def test_masks_stand_beside_their_images(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"a.png": (128, 64), "b.png": (64, 64)})
    for name, size in {"a": (128, 64), "b": (64, 64)}.items():
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("RGB", size, "white").save(tmp_path / "masks" / f"{name}.png")
    masks = {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"}
    report = reported(
        tmp_path,
        one(tmp_path / "images", conditioning_data="masks"),
        {**masks, "instance_data_dir": str(tmp_path / "masks")},
    )
    (companion,) = report.galleries[0].companions
    assert (companion.id, companion.kind, len(companion.pairs)) == ("masks", "mask", 2)
    assert all(image.kept == mask.kept for image, mask in companion.pairs)
    assert "Paired with masks" in rendered(report)


def test_a_large_data_set_makes_no_large_page(tmp_path: Path) -> None:
    sizes = {f"{number}.png": (64 + number % 30 * 8, 64 + number % 7 * 16) for number in range(300)}
    folder(tmp_path / "images", sizes)
    page = rendered(reported(tmp_path, one(tmp_path / "images")))
    assert page.count("data:image") < 150
    assert len(page) < 1_000_000


@pytest.mark.parametrize(("value", "said"), [(0.0, "0%"), (0.001, "<1%"), (0.256, "26%"), (1.0, "100%")])
def test_shares_are_read_at_a_glance(value: float, said: str) -> None:
    assert share(value) == said


def test_names_are_shown_without_the_folder_they_share() -> None:
    assert within("/data/images/sub/a.png", "/data/images") == "sub/a.png"
    assert within("s3://bucket/a.png", "s3://bucket/") == "a.png"
    assert within("/elsewhere/a.png", "/data/images") == "/elsewhere/a.png"


def test_the_page_makes_no_request_by_its_own_rules(images: Path, tmp_path: Path) -> None:
    page = rendered(reported(tmp_path, one(images)))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'")
