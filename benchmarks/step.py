"""How much longer does a training step take with everything around it than in a bare loop?

The bare loop has the same network, adapter, batch size, optimizer, noise levels and gradient clipping, and holds its
latents and embeddings in memory; the Trainer reads them from its caches and reports every step.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import setting
import torch

from simpletuner import plans
from simpletuner.building import build_trainer
from simpletuner.config import RunConfig
from simpletuner.data.pace import Pace
from simpletuner.demo import MODEL
from simpletuner.models.adapters import lora
from simpletuner.models.adapters.presets import PRESETS
from simpletuner.models.families import FAMILIES
from simpletuner.models.family import Compute, Denoiser
from simpletuner.preparation import Prepared, prepare
from simpletuner.progress import Event, Recorded, StepDone
from simpletuner.training.checkpoint import Checkpoints
from simpletuner.training.runtime import Runtime

WARM_UP = 2
"""Steps at the beginning that do not count: memory is taken and kernels are chosen in them."""


def main() -> None:
    """Print the time of one step both ways, and the memory that a process takes for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="steps of each repetition that count")
    parser.add_argument("--repeats", type=int, default=4, help="how often each way is taken, in turn")
    parser.add_argument("--batch-size", type=int, default=4, help="pictures in a batch")
    parser.add_argument("--resolution", type=int, default=256, help="edge of the pictures, which are square")
    parser.add_argument("--blocks", type=int, nargs=2, help="double and single blocks, instead of the demo's network")
    parser.add_argument("--heads", type=int, default=8, help="attention heads of each block, with --blocks")
    parser.add_argument("--alone", choices=WAYS, help="go one way in --folder, and print the memory that it takes")
    parser.add_argument("--folder", type=Path, help="where everything for --alone is prepared")
    options = parser.parse_args()
    if options.alone:
        setting.quiet()
        WAYS[options.alone](Ready.there(options.folder, options))()
        print(setting.memory("VmHWM"))
        return
    setting.print_setting()
    with tempfile.TemporaryDirectory() as temporary:
        _draw(Path(temporary), options)
        ready = Ready.there(Path(temporary), options)
        times = setting.taking_turns({name: way(ready) for name, way in WAYS.items()}, options.repeats)
        most = {name: _memory(name, ready.folder) for name in WAYS}
    _print(times, most)


def _print(times: Mapping[str, list[setting.Time]], most: Mapping[str, int]) -> None:
    base, least = setting.median(times[BARE]), most[BARE]
    rows = []
    for name, each in times.items():
        time = setting.median(each)
        ratios = [f"{time.wall / base.wall:.3f}", f"{time.cpu / base.cpu:.3f}"]
        memory = [f"{most[name] / 1e6:,.0f} MB", f"{most[name] / least:.3f}"]
        rows.append([name, setting.milliseconds(time.wall), setting.milliseconds(time.cpu), *ratios, *memory])
    heads = ("one step", "wall", "processor", "times bare, wall", "times bare, processor", "memory", "times bare")
    setting.print_table(heads, rows)


def _memory(way: str, folder: Path) -> int:
    """The most memory that a process of its own takes that goes one way only; all caches are filled by then."""
    command = [sys.executable, *sys.argv, "--alone", way, "--folder", str(folder)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def _draw(folder: Path, options: argparse.Namespace) -> None:
    """Pictures, a model and a config."""
    size = options.resolution
    pictures = setting.draw_pictures(folder / "pictures", 4 * options.batch_size, shortest=size, longest=size)
    blocks = tuple(options.blocks) if options.blocks else None
    model = setting.model_folder(folder / "model", blocks=blocks, heads=options.heads)
    data = {"resolution": size, "resolution_type": "pixel"}
    total = {"max_train_steps": WARM_UP + options.steps, "train_batch_size": options.batch_size}
    setting.run_config(folder, pictures, model, data, **total)


@dataclass(frozen=True)
class Ready:
    """Everything that both ways need."""

    folder: Path
    config: RunConfig
    runtime: Runtime
    pace: Pace
    prepared: Prepared

    @staticmethod
    def there(folder: Path, options: argparse.Namespace) -> Ready:
        """What is in a folder; encoded if that was not done yet."""
        config = setting.loaded(folder, folder / "model" if options.blocks else MODEL)
        runtime = Runtime.start("no", 1)
        pace = plans.pace(config, runtime, None)
        return Ready(folder, config, runtime, pace, prepare(config, runtime, Recorded(), pace))

    @property
    def steps(self) -> int:
        """How many steps a repetition has."""
        return self.config.duration.max_train_steps or 0


def bare(ready: Ready) -> Callable[[], setting.Time]:
    """The shortest loop."""
    loop = Bare.made(ready.config, ready.prepared)
    print(f"network: {sum(one.numel() for one in loop.denoiser.module.parameters()) / 1e6:.1f} M weights")
    print(f"adapter: {sum(one.numel() for one in loop.parameters) / 1e6:.2f} M weights\n")
    return lambda: loop.steps(ready.steps)


def ours(ready: Ready) -> Callable[[], setting.Time]:
    """The trainer, made anew for each repetition; only its steps are measured."""

    def work() -> setting.Time:
        stamps, place = Stamps(), Path(tempfile.mkdtemp(dir=ready.folder))
        store = Checkpoints(place, 1)
        build_trainer(ready.config, ready.prepared, store, ready.runtime, stamps, ready.pace).fit(None)
        return stamps.step()

    return work


@dataclass
class Stamps:
    """A reporter that notes when each step ended."""

    ends: list[setting.Time] = field(default_factory=list)

    def __post_init__(self) -> None:
        with setting.stopwatch() as self._elapsed:
            pass

    def report(self, event: Event) -> None:
        """Look at the clock when a step is done."""
        if isinstance(event, StepDone):
            self.stamp()

    def stamp(self) -> None:
        """Look at the clock."""
        self.ends.append(self._elapsed())

    def close(self) -> None:
        """Nothing to write."""

    def step(self) -> setting.Time:
        """The time of one step: the middle one of all that count."""
        pairs = itertools.pairwise(self.ends[WARM_UP - 1 :])
        return setting.median([setting.Time(after.wall - one.wall, after.cpu - one.cpu) for one, after in pairs])


@dataclass(frozen=True)
class Bare:
    """The shortest loop that trains a LoRA on FLUX.1."""

    denoiser: Denoiser
    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    latents: torch.Tensor
    conditioning: dict[str, torch.Tensor]

    @staticmethod
    def made(config: RunConfig, prepared: Prepared) -> Bare:
        """The network with its adapter, and one batch in memory."""
        denoiser = FAMILIES["flux"].denoiser(prepared.weights, Compute(torch.device("cpu"), torch.float32))
        plan = lora.LoraPlan(PRESETS["all"], rank=config.adapter.lora_rank, alpha=config.adapter.lora_rank)
        lora.attach(denoiser.module, plan, torch.float32, seed=1)
        denoiser.module.train()
        parameters = list(lora.trainable(denoiser.module).values())
        optimizer = torch.optim.AdamW(parameters, lr=config.optimization.learning_rate, fused=True)
        (dataset,) = prepared.datasets
        records = dataset.records[: config.duration.train_batch_size]
        texts = [prepared.prompts[record.captions[0]] for record in records]
        return Bare(
            denoiser,
            parameters,
            optimizer,
            latents=torch.stack([prepared.latents.get(dataset.id, record)[0] for record in records]),
            conditioning={name: torch.stack([text[name] for text in texts]) for name in texts[0]},
        )

    def steps(self, count: int) -> setting.Time:
        """Train for some steps; returns the time of one."""
        stamps = Stamps()
        for _ in range(count):
            self._step()
            stamps.stamp()
        return stamps.step()

    def _step(self) -> None:
        noise = torch.randn_like(self.latents)
        sigma = torch.sigmoid(torch.randn(len(self.latents)))
        sigma = 3 * sigma / (1 + 2 * sigma)
        share = sigma.view(-1, 1, 1, 1)
        noisy = (1 - share) * self.latents + share * noise
        guidance = torch.ones_like(sigma) if self.denoiser.uses_guidance else None
        predicted = self.denoiser.predict(noisy, sigma, self.conditioning, guidance)
        loss = (predicted - (noise - self.latents)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 2.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()


BARE = "bare loop"
WAYS = {BARE: bare, "Trainer": ours}

if __name__ == "__main__":
    main()
