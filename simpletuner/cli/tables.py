"""The report on data sets as a terminal shows it: one table, then what to look at."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from simpletuner.data.report.findings import Finding
from simpletuner.data.report.inspection import Report
from simpletuner.data.report.page import share


def overview(report: Report) -> Table:
    """One row for each data set, and the batches of an epoch."""
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
    table.add_column("data set", "all", overflow="fold", min_width=12)
    for name in ("images", "left out", "buckets", "cropped", "alike", "words"):
        table.add_column(name, justify="right")
    table.add_column("batches", f"{report.batches_per_epoch:,}", justify="right")
    for part in report.parts:
        facts, said = part.facts, part.wording.statistics
        table.add_row(
            Text(facts.id),
            f"{facts.images:,}",
            f"{facts.left_out:,}",
            f"{len(facts.buckets):,}",
            share(facts.lost),
            f"{part.surplus:,}" if part.was_looked_at else "-",
            f"{said.mean_words:.1f}",
            f"{facts.batches:,}",
        )
    return table


def findings_of(report: Report) -> Iterator[Text]:
    """What to look at, each thing in a line of its own."""
    for part, findings in zip(report.parts, report.findings, strict=True):
        yield from (_line(f"{part.facts.id}: ", finding) for finding in findings)
    yield from (_line("", finding) for finding in report.between)


def _line(where: str, finding: Finding) -> Text:
    return Text.assemble((finding.weight, _STYLES[finding.weight]), f"  {where}{finding.what}. {finding.advice}")


_STYLES = {"serious": "bold red", "notable": "yellow", "minor": "dim"}
