"""The report as one HTML file that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simpletuner.data.items import Size
from simpletuner.data.report.facts import Bin, Bucket
from simpletuner.data.report.findings import Finding, Part
from simpletuner.data.report.inspection import Companion, Gallery, Report
from simpletuner.data.report.thumbnails import Thumbnail


@dataclass(frozen=True)
class Column:
    """One column of a histogram."""

    height: float
    """In hundredths of the highest one."""
    count: int
    range: str
    mark: str
    """What stands below it; nothing below most."""
    is_odd: bool
    """Whether it lies on the side that deserves a look."""


@dataclass(frozen=True)
class Shelf:
    """The thumbnails of one bucket."""

    bucket: Bucket
    thumbnails: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class Chapter:
    """One data set, as the page shows it."""

    anchor: str
    part: Part
    findings: tuple[Finding, ...]
    sizes: tuple[Column, ...]
    tokens: tuple[Column, ...]
    shelves: tuple[Shelf, ...]
    alike: tuple[tuple[Thumbnail, ...], ...]
    companions: tuple[Companion, ...]
    fullest: int
    """How many images the fullest bucket holds."""


def render(report: Report, *, title: str, made: str) -> str:
    """The page.

    Args:
        report: What was found out.
        title: What it is about, such as the name of the config.
        made: By what and when.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update({"share": share, "shape": _shape, "within": within})
    environment.undefined = jinja2.StrictUndefined
    chapters = [_chapter(number, report) for number in range(len(report.parts))]
    page = environment.get_template("page.html").render(report=report, chapters=chapters, title=title, made=made)
    return page.encode("utf-8", errors="backslashreplace").decode()  # file names may not be text at all


def share(value: float) -> str:
    """A share in whole hundredths, but never "0%" for what is more than nothing."""
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"


def within(name: str, place: str) -> str:
    """A file name without the place that all of them share."""
    return (name.startswith(place) and name[len(place) :].lstrip("/\\")) or name


def _chapter(number: int, report: Report) -> Chapter:
    part, gallery = report.parts[number], report.galleries[number]
    tokens = part.wording.tokens
    return Chapter(
        anchor=f"set-{number + 1}",
        part=part,
        findings=report.findings[number],
        sizes=tuple(_columns(part.facts.sizes, "px", below=part.facts.trained_at)),
        tokens=tuple(_columns(tokens.lengths, "tokens", above=tokens.limits[1])) if tokens else (),
        shelves=tuple(_shelves(part, gallery)),
        alike=tuple(_alike(gallery)),
        companions=gallery.companions,
        fullest=max(bucket.images for bucket in part.facts.buckets),
    )


def _columns(bins: Sequence[Bin], unit: str, *, below: int = 0, above: int | None = None) -> Iterator[Column]:
    """Columns, of which those below one number or above another are odd."""
    most = max((one.count for one in bins), default=1)
    every = max(1, len(bins) // 4)
    for place, one in enumerate(bins):
        high = "and more" if one.high is None else f"to {one.high - 1:,}"
        is_odd = (one.high is not None and one.high <= below) or (above is not None and one.low > above)
        height = 100 * one.count / most
        yield Column(height, one.count, f"{one.low:,} {high} {unit}", "" if place % every else f"{one.low:,}", is_odd)


def _shelves(part: Part, gallery: Gallery) -> Iterator[Shelf]:
    for bucket in part.facts.buckets:
        found = tuple(gallery.thumbnails[place] for place in bucket.examples if place in gallery.thumbnails)
        if found:
            yield Shelf(bucket, found)


def _alike(gallery: Gallery) -> Iterator[tuple[Thumbnail, ...]]:
    for group in gallery.alike:
        yield tuple(gallery.thumbnails[place] for place in group if place in gallery.thumbnails)


def _shape(size: Size) -> Size:
    """A small rectangle of the same shape."""
    scale = 18 / max(size)
    return Size(max(2, round(size.width * scale)), max(2, round(size.height * scale)))
