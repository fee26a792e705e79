"""``simpletuner push``: upload what a run could not, or the result of a run that did not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from simpletuner.errors import PublishError
from simpletuner.resolved import public
from simpletuner.training.publishing import contents
from simpletuner.training.publishing.card import readdressed
from simpletuner.training.publishing.delivery import deliver_waiting
from simpletuner.training.publishing.names import wrong_branch, wrong_repository
from simpletuner.training.publishing.outbox import FOLDER, Content, Label, Outbox
from simpletuner.training.saving import RESOLVED_CONFIG

_SECONDS = 120.0
"""For how long a Hub that does not answer is asked again."""


@click.command("push")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "repository", help="The repository, such as you/my-lora; that of the config unless given.")
@click.option("--branch", help="The branch; that of the config unless given.")
@click.option("--private/--public", "is_private", default=None, help="Who may see a new repository.")
def command(run: Path, repository: str | None, branch: str | None, is_private: bool | None) -> None:
    """Upload the result of a run to the Hugging Face Hub.

    RUN is the output folder of a run. What waits in its outbox is sent, oldest first; when nothing waits, or --to names
    a repository, the result is. Sending twice does no harm.
    """
    outbox = Outbox(run / FOLDER)
    if repository is not None or not outbox.waiting():
        config = _config(run)
        label = _label(config, repository, branch, is_private)
        outbox.put(label, _result(run, _named(config), label.repository))
    failures = []
    for sent in deliver_waiting(outbox, lambda: _SECONDS):
        if isinstance(sent, PublishError):
            failures.append(sent)
        else:
            click.echo(f"uploaded: {sent[1]}")
    if failures:
        raise PublishError("\n".join(map(str, failures)))


def _config(run: Path) -> Mapping[str, Any]:
    """What the run was made with."""
    try:
        found: dict[str, Any] = json.loads((run / RESOLVED_CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise click.UsageError(
            f"'{run}' is not the output folder of a run: {RESOLVED_CONFIG} cannot be read ({error})"
        ) from error
    return found


def _label(config: Mapping[str, Any], repository: str | None, branch: str | None, is_private: bool | None) -> Label:
    name = repository or _named(config)
    if not name:
        raise click.UsageError("the config names no repository; give one with --to you/my-lora")
    branch = branch or config.get("hub_branch")
    if what := wrong_repository(name):
        raise click.UsageError(f"'{name}' {what}")
    if branch and (what := wrong_branch(branch)):
        raise click.UsageError(f"'{branch}' {what}")
    private = config.get("model_card_private", True) if is_private is None else is_private
    return Label(name, bool(private), branch, "Upload the result")


def _named(config: Mapping[str, Any]) -> str:
    """The repository that the config names."""
    return str(config.get("hub_model_id") or config.get("tracker_project_name") or "")


def _result(run: Path, before: str, repository: str) -> Content:
    """What there is of a result; its card was written for the repository `before`."""
    files = contents.of_result(run, contents.shown_step(run))
    if not any(name.startswith(contents.WEIGHTS) for name in files):
        raise PublishError(
            f"'{run}' holds no result yet: there is no {' and no '.join(contents.WEIGHTS)} in it. Start its training "
            f"again; it goes on from the last checkpoint."
        )
    texts = {RESOLVED_CONFIG: public((run / RESOLVED_CONFIG).read_text())}
    if written := files.pop(contents.CARD, None):
        texts[contents.CARD] = readdressed(written.read_text(), before, repository)
    return Content(files, texts)
