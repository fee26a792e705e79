"""What the benchmarks share: a model, drawn pictures, a run's config, stopwatches and the printed table."""

from __future__ import annotations

import json
import logging
import os
import platform
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from simpletuner.config import RunConfig, load
from simpletuner.demo import MODEL
from simpletuner.selection import Selection

# One thread, and none that waits by spinning: then processor seconds count work and nothing else. Libraries are told
# to be silent, or they write between the lines of the tables. All of this must be set before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate")

CONFIG = {
    "model_family": "flux",
    "pretrained_model_name_or_path": "{env:MODEL}",
    "data_backend_config": "multidatabackend.json",
    "seed": 1,
    "flux_lora_target": "all",
    "lora_rank": 8,
    "optimizer": "adamw",
    "mixed_precision": "no",
    "vae_dtype": "fp32",
    "gradient_checkpointing": False,
    "caption_dropout_probability": 0,
    "validation_disable": True,
}


@dataclass(frozen=True)
class Time:
    """How long something took by the clock on the wall, and how long processors worked for it."""

    wall: float
    cpu: float


@contextmanager
def stopwatch() -> Iterator[Callable[[], Time]]:
    """Inside the ``with``, or after it, call what it gives to read the time since its start."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield lambda: Time(time.perf_counter() - wall, time.process_time() - cpu)


def timed(work: Callable[[], object]) -> Time:
    """The time that one call takes."""
    with stopwatch() as elapsed:
        work()
        return elapsed()


def memory(what: str) -> int:
    """Bytes of main memory of this process alone: VmRSS, or VmHWM for the most that it had so far.

    What getrusage says may be of the process that started this one.
    """
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{what}:"))
    return int(line.split()[1]) * 1024


def median(times: Sequence[Time]) -> Time:
    """The middle one of several repetitions, clock and processors each by itself."""
    return Time(statistics.median(one.wall for one in times), statistics.median(one.cpu for one in times))


def taking_turns(works: Mapping[str, Callable[[], Time]], repeats: int) -> dict[str, list[Time]]:
    """Each piece of work several times, in turn, so that what else the machine does falls on all of them alike."""
    times: dict[str, list[Time]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(work())
    return times


def quiet() -> None:
    """From here on libraries write nothing between the tables."""
    logging.disable(logging.WARNING)


def print_setting() -> None:
    """What the figures depend on besides the code."""
    quiet()
    libraries = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {libraries}\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table: the first column is text, the others are numbers."""
    widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
    rules = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    for row in (columns, rules, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")


def milliseconds(seconds: float) -> str:
    """0.012 ms, 1.5 ms and 1,500 ms: with as many digits as are worth reading."""
    number = seconds * 1000
    digits = 0 if number >= 100 else 1 if number >= 1 else 3
    return f"{number:,.{digits}f} ms"


def draw_pictures(folder: Path, count: int, *, shortest: int, longest: int, kind: str = "jpg") -> Path:
    """Captioned pictures with edges between two lengths, coarse noise so that their files have the usual size."""
    from PIL import Image

    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        width, height = draw.randint(shortest, longest), draw.randint(shortest, longest)
        grain = Image.frombytes("RGB", (32, 32), draw.randbytes(32 * 32 * 3))
        grain.resize((width, height)).save(folder / f"{number:06}.{kind}")
        (folder / f"{number:06}.txt").write_text(f"red circle {number}\n")
    return folder


def model_folder(folder: Path, *, blocks: tuple[int, int] | None = None, heads: int = 2, width: int = 64) -> Path:
    """The model that comes along; with `blocks`, a copy whose transformer has that many double and single blocks."""
    if blocks is None:
        return MODEL
    import torch
    from diffusers import FluxTransformer2DModel

    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("transformer"))
    config = FluxTransformer2DModel.load_config(MODEL, subfolder="transformer")
    torch.manual_seed(0)
    changed = {"num_layers": blocks[0], "num_single_layers": blocks[1], "num_attention_heads": heads}
    axes = [width // 4, width * 3 // 8, width * 3 // 8]
    made = FluxTransformer2DModel.from_config(
        {**config, **changed, "attention_head_dim": width, "axes_dims_rope": axes}
    )
    made.save_pretrained(folder / "transformer")
    return folder


def run_config(folder: Path, pictures: Path, model: Path, data: Mapping[str, object], **options: object) -> RunConfig:
    """A run over one folder of pictures whose every file stays inside `folder`."""
    entry = {"id": "pictures", "instance_data_dir": str(pictures), "caption_strategy": "textfile", **data}
    places = {"output_dir": str(folder / "output"), "cache_dir": str(folder / "cache")}
    path = folder / "config.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**CONFIG, **places, **options}))
    (folder / "multidatabackend.json").write_text(json.dumps([entry]))
    return loaded(folder, model)


def loaded(folder: Path, model: Path) -> RunConfig:
    """The config of a folder."""
    return load(Selection(config=str(folder / "config.json")), environment={"MODEL": str(model)}).config
