"""``simpletuner train``."""

from __future__ import annotations

import logging
import os
import warnings

import click

from simpletuner.cli.choosing import PASS_ON, chosen, selecting
from simpletuner.cli.console import Console
from simpletuner.cli.summary import closing
from simpletuner.config import load
from simpletuner.demo.start import prepare_demo
from simpletuner.progress import Notice
from simpletuner.run import train

DEMO = "demo"


@click.command("train", context_settings=PASS_ON)
@selecting
def command(config: str | None, env: str | None, example: str | None, overrides: tuple[str, ...]) -> None:
    """Train a LoRA from a config.

    Any option of the config can be given here too, as `learning_rate=1e-4` or `--learning_rate 1e-4`; it wins over the
    file. Without a choice, config/config.json is used.
    """
    _quiet()
    selection, words = chosen(config, env, example, overrides)
    if selection.example == DEMO:
        prepare_demo()
    reading = load(selection, words, environment=os.environ)
    console = Console()
    for text in reading.notices:
        console.report(Notice(text))
    outcome = train(reading.config, console)
    click.echo(closing(outcome, is_demo=selection.example == DEMO))


def _quiet() -> None:
    """Libraries' own chatter is not for users; what matters comes as events."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # Without this, two threads on a busy machine wait for each other by spinning: up to ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "httpx", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
