"""What a person sees of a run, on a terminal and in a file."""

import io

import pytest
from rich.console import Console as Terminal

from simpletuner.cli.console import Console
from simpletuner.progress import (
    Advanced,
    CheckpointSaved,
    DatasetReady,
    ImagesSaved,
    Notice,
    Published,
    RunStarted,
    StageStarted,
    StepDone,
    TrainingStarted,
)


def step(number, loss=0.5):
    return StepDone(number, 3, 1, loss, 1e-4, 0.1, 0.25, 2)


EVENTS = [
    RunStarted("output"),
    StageStarted("looking through data set 'subject'", 0),
    Advanced(25),
    DatasetReady("subject", 24, 3, 1, "cache/manifest/subject.skipped.tsv"),
    Notice("resumed from checkpoint-2"),
    StageStarted("image latents", 24),
    Advanced(24),
    TrainingStarted(0, 3, 1, 1_500_000),
    step(1),
    step(2),
    step(3),
    CheckpointSaved(3, "output/checkpoint-3"),
    ImagesSaved(3, (), (), "output/before_and_after.png"),
    Published("https://hub/you/lora"),
]


def shown(*, is_terminal, width=120):
    screen = io.StringIO()
    console = Console(Terminal(file=screen, force_terminal=is_terminal, width=width, highlight=False))
    for event in EVENTS:
        console.report(event)
    console.close()
    return screen.getvalue()


def test_a_file_gets_plain_lines_in_the_order_of_events(capsys):
    shown(is_terminal=False)
    assert capsys.readouterr().out.splitlines() == [
        "output: output",
        "looking through data set 'subject'",
        "subject: 24 images in 3 buckets, 1 skipped: see cache/manifest/subject.skipped.tsv",
        "note: resumed from checkpoint-2",
        "image latents: 0/24",
        "image latents: 24/24",
        "training: 1.50 M weights, 3 steps",
        "training: 0/3",
        "training: 3/3 loss 0.5000  lr 1.00e-04  0.25 s/step  8.0 images/s  0:00:00 left",
        "checkpoint: output/checkpoint-3",
        "images: output/before_and_after.png",
        "published: https://hub/you/lora",
    ]


@pytest.mark.parametrize("text", ["image latents", "24/24", "3/3", "loss 0.5000", "checkpoint: output/checkpoint-3"])
def test_a_terminal_gets_bars_with_the_facts_of_training(text):
    assert text in shown(is_terminal=True)


def test_a_terminal_of_the_usual_width_shows_the_step_and_the_time_left_beside_all_facts():
    text = shown(is_terminal=True, width=80)
    for fact in ("training", "3/3", "0:00:00", "loss 0.5000", "lr 1.00e-04", "0.25 s/step", "8.0 images/s"):
        assert fact in text
    assert "tra…" not in text and "loss 0.5000  lr 1.00e-04  0.25 s/step  8.0 images/s" in text


def test_a_step_that_was_left_out_is_over_too(capsys):
    console = Console(Terminal(file=io.StringIO(), force_terminal=False))
    for event in (TrainingStarted(0, 3, 1, 1), step(1), step(3)):
        console.report(event)
    assert "training: 3/3" in capsys.readouterr().out
