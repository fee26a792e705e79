"""One sitting: read what there is, ask, check, and show, until the person agrees or leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from simpletuner.wizard.answers import CARDS, OWN_PROMPT, Answers
from simpletuner.wizard.changes import changed, shown
from simpletuner.wizard.documents import Documents, answers_in, get, options_of, read
from simpletuner.wizard.questions import ask, decide, in_words
from simpletuner.wizard.write import pending, problems

_WRITE, _AGAIN, _LEAVE = "write", "again", "leave"


def hold(folder: Path, *, environment: Mapping[str, str], working: Path) -> Documents | None:
    """Hold one sitting; what is to be written, if the person agreed.

    Raises:
        KeyboardInterrupt: It was broken off.
    """
    documents = read(folder, working)
    click.echo(_greeting(documents))
    answers, settings = answers_in(documents), _settings(documents)
    while True:
        answers = ask(answers, settings=settings, environment=environment)
        made = changed(documents, answers, working)
        click.echo("\n" + "\n".join(_summary(made, answers, settings, working)) + "\n")
        decision = _decision(made, environment, working)
        if decision != _AGAIN:
            return made if decision == _WRITE else None


def _greeting(documents: Documents) -> str:
    what = f"Making {documents.config_path}." if documents.is_new else f"Changing {documents.config_path}."
    return f"{what} Nothing is written before the end; Ctrl-C leaves."


def _decision(made: Documents, environment: Mapping[str, str], working: Path) -> str:
    found = problems(made, environment=environment, working=working)
    if not found:
        choices = {_WRITE: "yes", _AGAIN: "no, go through the questions again", _LEAVE: "no, leave everything as it is"}
        return decide("Write these files?", choices)
    click.secho("This would not pass `simpletuner check`:", fg="red")
    for problem in found:
        click.echo(f"  {problem}")
    return decide("And now?", {_AGAIN: "go through the questions again", _LEAVE: "leave everything as it is"})


def _settings(documents: Documents) -> str:
    """What an existing config says about memory, in words."""
    options = options_of(documents.config)
    names = ("base_model_precision", "optimizer")
    words = [str(value) for name in names if (value := get(options, name)) is not None]
    batch = get(options, "train_batch_size")
    words += [f"batch {batch}"] if batch is not None else []
    return "" if documents.is_new else f"the settings there are{': ' if words else ''}{', '.join(words)}"


def _summary(made: Documents, answers: Answers, settings: str, working: Path) -> Iterator[str]:
    """The answers, and the files that they go to."""
    described = (
        f"'{answers.trigger}' for all of them" if answers.captions == OWN_PROMPT else _CAPTIONS[answers.captions]
    )
    rows = [
        ("pictures", answers.pictures),
        ("captions", described),
        *_model(answers),
        ("settings", in_words(CARDS[answers.card]) if answers.card else settings),
        ("length", f"{answers.steps} steps" if answers.steps else f"{answers.epochs:g} epochs"),
        *((("prompts" if number == 0 else ""), prompt) for number, prompt in enumerate(answers.prompts)),
        ("name", answers.name),
        ("output", answers.output),
        ("published", answers.repository if answers.publish else "no"),
    ]
    states = [f"{shown(path, working)}  ({'changed' if path.is_file() else 'new'})" for path in pending(made)]
    rows += [("files" if number == 0 else "", state) for number, state in enumerate(states or ["nothing changes"])]
    yield from (f"  {name:10} {value}" for name, value in rows)


def _model(answers: Answers) -> Iterator[tuple[str, str]]:
    """Where the parts of the model come from."""
    yield "model", answers.base or answers.flavour
    if answers.base and answers.flavour:
        yield "", f"what it lacks as in {answers.flavour}"
    yield from (("", text) for text in answers.parts.values())


_CAPTIONS = {"textfile": "from the caption files", "filename": "from the file names"}
