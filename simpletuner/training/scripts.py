"""Commands of the user that run beside training: without a shell, with the facts of the run in their places."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from simpletuner.progress import Notice, Reporter

_REMOTE = "remote_checkpoint_path"

FACTS = (
    "local_checkpoint_path",
    "global_step",
    "tracker_run_name",
    "tracker_project_name",
    "model_family",
    "model_type",
    "lora_type",
    "huggingface_path",
    _REMOTE,
)
"""What may stand in braces in a command."""


@dataclass(frozen=True)
class Script:
    """A command that runs after every checkpoint or upload; training does not wait for it, nor end when it fails."""

    option: str
    """The option that names it."""
    command: str
    facts: Mapping[str, str]
    log: Path
    """The file that everything it says is added to."""
    reporter: Reporter
    running: list[tuple[Path, subprocess.Popen[bytes]]] = field(default_factory=list)

    def start(self, path: Path, step: int, *, remote: str = "") -> None:
        """Run it for a checkpoint, or a result; `remote` is where that was uploaded to."""
        self._tell_ended()
        known = {"local_checkpoint_path": str(path.absolute()), "global_step": str(step), _REMOTE: remote}
        try:
            with self.log.open("ab") as log:
                # In a session of its own: Ctrl-C is for the run, which waits for what it has started.
                started = subprocess.Popen(
                    filled(self.command, {**self.facts, **known}),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.running.append((path, started))
        except OSError as error:
            self.reporter.report(Notice(f"{self.option} cannot be run for {path.name}: {error}"))

    def is_using(self, path: Path) -> bool:
        """Whether it still works on a checkpoint."""
        return any(used == path and started.poll() is None for used, started in self.running)

    def wait(self, seconds: float = 60.0) -> None:
        """Until everything that was started has ended; what takes longer goes on by itself."""
        last = time.monotonic() + seconds
        for path, started in self.running:
            with suppress(subprocess.TimeoutExpired):
                started.wait(max(last - time.monotonic(), 0))
                continue
            self.reporter.report(Notice(f"{self.option} still runs for {path.name}, and goes on after this run"))
        self._tell_ended()

    def _tell_ended(self) -> None:
        for path, started in list(self.running):
            code = started.poll()
            if code is not None:
                self.running.remove((path, started))
            if code:
                told = f"{self.option} ended with exit code {code} for {path.name}; see {self.log}"
                self.reporter.report(Notice(told))


def filled(command: str, facts: Mapping[str, str]) -> list[str]:
    """The words of a command; it is split first, so that no fact can become a word of its own."""
    words = shlex.split(os.path.expandvars(command))
    return [os.path.expanduser(_BRACES.sub(lambda found: facts.get(found[1], found[0]), word)) for word in words]


def wrong_with(command: str, known: Sequence[str] = FACTS) -> Iterator[str]:
    """What is wrong with a command before it is ever run; `known` may stand in braces in it."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        yield f"cannot be split into words: {error}; check its quotes"
        return
    program = os.path.expanduser(os.path.expandvars(words[0])) if words else ""
    if shutil.which(program) is None:
        yield f"there is no program '{program}' that can be run; give its path, and make it executable"
    for name in dict.fromkeys(_BRACES.findall(command)):
        if name not in known:
            yield f"nothing is known of '{{{name}}}'; known are {', '.join(known) or 'none here'}"


_BRACES = re.compile(r"\{(\w+)\}")
