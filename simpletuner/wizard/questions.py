"""The questions on the terminal: each starts from the answer there is, or from a suggestion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from simpletuner.models.families import FAMILIES
from simpletuner.models.sources import is_file
from simpletuner.wizard import models, pictures
from simpletuner.wizard.answers import (
    CAPTION_FILES,
    CARDS,
    FILE_NAMES,
    OWN_PROMPT,
    Answers,
    Card,
    refused_repository,
    slug,
    suggested_name,
    suggested_prompts,
    suggested_steps,
)
from simpletuner.wizard.documents import ASKED_PROMPTS
from simpletuner.wizard.pictures import Pictures, look, place

Check = Callable[[str], str | None]
"""Says what is wrong with what was typed, if anything."""

_NO_MEANINGS: Mapping[str, str] = MappingProxyType({})


def ask(known: Answers, *, settings: str, environment: Mapping[str, str]) -> Answers:
    """Ask everything.

    Args:
        known: The answers there are already, as defaults.
        settings: What the config there is says about memory, in words; empty when there is none.
        environment: What ``{env:NAME}`` in a folder stands for.

    Raises:
        KeyboardInterrupt: The person has had enough.
    """
    answers = replace(known, pictures=_folder(known, environment))
    found = look(place(answers.pictures, environment))
    click.secho(f"  {_found(found)}", dim=True)
    answers = _captions(answers, found)
    answers = _model(answers, environment)
    answers = replace(answers, card=_card(answers, settings))
    answers = replace(answers, steps=_steps(answers, found))
    answers = replace(answers, prompts=_prompts(answers, found))
    answers = _place(answers)
    return _publishing(answers)


def decide(question: str, choices: Mapping[str, str]) -> str:
    """Let one of several ways be chosen; the mapping goes from what is returned to what is shown."""
    return _select(question, choices, default=next(iter(choices)))


def _folder(known: Answers, environment: Mapping[str, str]) -> str:
    import questionary

    answer: str = questionary.path(
        "Folder with your pictures:",
        default=known.pictures,
        only_directories=True,
        validate=_checked(lambda text: pictures.refused(text, environment)),
        validate_while_typing=False,
        style=_style(),
    ).unsafe_ask()
    return answer.strip()


def _found(found: Pictures) -> str:
    noun = "picture" if found.count == 1 else "pictures"
    if not found.captioned:
        return f"{found.count} {noun}, no caption files"
    if found.captioned == found.count:
        return f"{found.count} {noun}, each with a caption file"
    return f"{found.count} {noun}, {found.captioned} with a caption file; with caption files the others are left out"


def _captions(answers: Answers, found: Pictures) -> Answers:
    choices = {
        OWN_PROMPT: "one trigger word for all of them",
        FILE_NAMES: "the file names",
    }
    if found.captioned:
        choices = {CAPTION_FILES: "the caption files beside them", **choices}
    strategy = _select("What describes the pictures?", choices, default=answers.captions)
    if strategy != OWN_PROMPT:
        return replace(answers, captions=strategy, trigger="")
    trigger = _text("Trigger word, a made-up one:", answers.trigger, _needed("Think of a word, such as zorb."))
    return replace(answers, captions=strategy, trigger=trigger)


def _model(answers: Answers, environment: Mapping[str, str]) -> Answers:
    meanings = {**_flavours(answers.family), _OWN: "A folder in diffusers layout, a single file, or an id on the Hub."}
    default = _OWN if answers.base else answers.flavour
    chosen = _select("Model to start from:", {name: name for name in meanings}, default=default, meanings=meanings)
    if chosen != _OWN:
        parts = {} if is_file(answers.base) else answers.parts
        return replace(answers, flavour=chosen, base="", parts=parts)
    check = partial(models.refused, family=answers.family, environment=environment)
    return _parts(replace(answers, base=_text("Folder, .safetensors file or id:", answers.base, check)), environment)


def _flavours(family: str) -> Mapping[str, str]:
    """Those that learn from pictures alone: others are trained on pairs, which are not asked for here."""
    known = FAMILIES.get(family, FAMILIES[Answers.family]).flavours
    alone = [name for name, flavour in known.items() if not (flavour.takes_references or flavour.fills)]
    return {name: known.summary(name).partition(";")[0] for name in alone}


def _parts(answers: Answers, environment: Mapping[str, str]) -> Answers:
    """What a single file does not hold: the Hub has it, or other files do."""
    lacking = models.lacking(answers.base, answers.family, environment)
    if not lacking:
        return answers
    default = _FILES if any(option in answers.parts for option in lacking) else _HUB
    if _select("The file does not hold the whole model. The rest is:", _PLACES, default=default) == _HUB:
        known = _flavours(answers.family)
        flavour = _select(
            "Made from:", {name: name for name in known}, default=answers.flavour or "dev", meanings=known
        )
        kept = {option: text for option, text in answers.parts.items() if option not in lacking}
        return replace(answers, flavour=flavour, parts=kept)
    given = {option: _part(option, answers, environment) for option in lacking}
    return replace(answers, parts={**answers.parts, **given})


def _part(option: str, answers: Answers, environment: Mapping[str, str]) -> str:
    def refused(text: str) -> str | None:
        return models.refused_part(option, text, answers.family, answers.base, environment)

    return _text(models.PARTS[option], answers.parts.get(option, ""), refused)


def _card(answers: Answers, settings: str) -> str:
    choices = {"": f"keep {settings}"} if settings else {}
    choices |= {name: card.title for name, card in CARDS.items()}
    chosen = _select("Memory of the graphics card:", choices, default=answers.card or ("" if settings else "24"))
    if chosen:
        click.secho(f"  {in_words(CARDS[chosen])}", bold=True)
        for reason in CARDS[chosen].reasons:
            click.secho(f"  - {reason}", dim=True)
    return chosen


def in_words(card: Card) -> str:
    """The settings for a card on one line."""
    checkpointing = "gradient checkpointing, " if card.gradient_checkpointing else ""
    return f"{card.precision}, {card.resolution} px, batch {card.batch_size}, {checkpointing}{card.optimizer}"


def _steps(answers: Answers, found: Pictures) -> int:
    if answers.epochs and not answers.steps:
        click.secho(f"  {answers.epochs:g} epochs, as the config says", dim=True)
        return 0
    batch = CARDS[answers.card].batch_size if answers.card else 1
    suggestion = answers.steps or suggested_steps(found.count, batch)
    times = max(1, round(suggestion * batch / found.count))
    if not answers.steps:
        click.secho(f"  {suggestion} steps show each picture {times} times", dim=True)
    return int(_text("Training steps:", str(suggestion), _refused_steps))


def _refused_steps(text: str) -> str | None:
    return None if text.strip().isdecimal() and int(text) > 0 else "A whole number, such as 2000."


def _prompts(answers: Answers, found: Pictures) -> tuple[str, ...]:
    click.secho("  Prompts to draw now and then, so that you can see it learn:", dim=True)
    suggestions = answers.prompts or suggested_prompts(answers.trigger, found.examples)
    prompts: list[str] = []
    for number in range(ASKED_PROMPTS):
        suggestion = suggestions[number] if number < len(suggestions) else ""
        more = _text(f"Prompt {number + 1}:", suggestion, _needed("At least one.") if number == 0 else _anything)
        if not more:
            break
        prompts.append(more)
    return tuple(prompts)


def _place(answers: Answers) -> Answers:
    name = _text("Name of the LoRA:", answers.name or suggested_name(answers), _needed("It needs a name."))
    own = f"output/{slug(name) or 'lora'}"
    return replace(answers, name=name, output=_text("Output folder:", answers.output or own, _refused_output))


def _refused_output(text: str) -> str | None:
    if not text.strip():
        return "Name a folder; it is made when it is not there."
    return f"{text} is a file." if Path(text).expanduser().is_file() else None


def _publishing(answers: Answers) -> Answers:
    import questionary

    publish = questionary.confirm(
        "Publish the result on the Hugging Face Hub?", default=answers.publish, style=_style()
    ).unsafe_ask()
    if not publish:
        return replace(answers, publish=False)
    suggestion = answers.repository or slug(answers.name)
    return replace(answers, publish=True, repository=_text("Repository, private:", suggestion, refused_repository))


def _text(question: str, default: str, refused: Check) -> str:
    import questionary

    answer: str = questionary.text(
        question, default=default, validate=_checked(refused), validate_while_typing=False, style=_style()
    ).unsafe_ask()
    return answer.strip()


def _select(
    question: str, choices: Mapping[str, str], *, default: str, meanings: Mapping[str, str] = _NO_MEANINGS
) -> str:
    import questionary

    entries = [questionary.Choice(title, value, description=meanings.get(value)) for value, title in choices.items()]
    start = next((entry for entry in entries if entry.value == default), entries[0])
    answer: str = questionary.select(
        question, choices=entries, default=start, instruction=" ", style=_style()
    ).unsafe_ask()
    return answer


def _checked(refused: Check) -> Callable[[str], bool | str]:
    return lambda text: refused(text) or True


def _needed(advice: str) -> Check:
    return lambda text: None if text.strip() else advice


def _anything(text: str) -> None:
    return None


def _style() -> Any:  # questionary is only imported when something is asked
    import questionary

    return questionary.Style(
        [("qmark", "fg:ansicyan"), ("answer", "fg:ansigreen"), ("pointer", "fg:ansicyan"), ("highlighted", "bold")]
    )


_OWN = "another"
_HUB, _FILES = "hub", "files"
_PLACES = {_HUB: "on the Hub, with the model that it was made from", _FILES: "in files of my own"}
