"""Validation: draw the prompts, save the images, and lay them beside what the base model drew and what came before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from simpletuner.models.trained import Trained
from simpletuner.progress import ImagesSaved, Notice, Reporter, Scored
from simpletuner.seeds import derive
from simpletuner.storage.local import LocalStore
from simpletuner.training import scores
from simpletuner.training.looks import Look
from simpletuner.training.occasions import Occasions
from simpletuner.training.pictures import FORMATS, file_name, plain_name, png
from simpletuner.training.previews import Previews, Watcher
from simpletuner.training.prompts import Shot
from simpletuner.training.sheets import Row, history, sheet
from simpletuner.training.studio import BrokenOff, Studio
from simpletuner.training.validation_script import ValidationScript

if TYPE_CHECKING:
    from PIL import Image

    from simpletuner.models.family import Denoiser
    from simpletuner.training.options import Validation as Options


T = TypeVar("T")


@dataclass(frozen=True)
class Drawn:
    """One picture of one look."""

    shot: Shot
    number: int
    look: str
    image: Image.Image
    path: Path


@dataclass(frozen=True)
class Validation:
    """Draws the shots of a run whenever it is asked to."""

    options: Options
    shots: Sequence[Shot]
    studio: Studio
    folder: Path
    reporter: Reporter
    looks: Sequence[Look] = (Look(""),)
    previews: Previews | None = None
    occasions: Occasions = field(default_factory=Occasions)
    first_step: int = 0
    """No pictures are drawn before this step."""
    script: ValidationScript | None = None
    """What is run instead of drawing."""
    strength: float = 1.0
    """How strongly what is trained acts in all pictures, besides what a prompt asks for."""

    @property
    def is_on(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.shots or self.script) and not self.options.validation_disable

    def is_due(self, step: int) -> bool:
        """Whether pictures are drawn after a step that is not the last."""
        return self.is_on and step >= self.first_step and self.occasions.falls_on(step)

    @property
    def reads_checkpoints(self) -> bool:
        """Whether the newest checkpoint is what is judged, and not the model as it is now."""
        return self.script is not None

    @property
    def draws_first(self) -> bool:
        """Whether pictures are drawn before the first step."""
        return self.is_on and self.options.validation_on_startup

    def draw_base(self, denoiser: Denoiser, trained: Trained) -> None:
        """Draw what the base model makes of the prompts, once; images of earlier runs with the same settings stay."""
        missing = [replace(shot, adapter_strength=1.0) for shot in self.shots if not self._base_path(shot).exists()]
        if not self.is_on or self.options.disable_benchmark or not missing:
            return
        with trained.without():
            drawn = self.studio.draw(denoiser, missing, "base model images")
        for shot, image in zip(missing, drawn, strict=True):
            if image is not None:
                self._write(self._base_path(shot), png(image, _texts(shot)))

    def draw(
        self, denoiser: Denoiser, trained: Trained, step: int, *, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        """Draw every shot with the model as it is now, and the sheets that compare, unless the run is to stop."""
        if not self.is_on:
            return
        if self.script is not None:
            self.script.run(step)
            return
        try:
            drawn = [one for look in self.looks for one in self._drawn(denoiser, trained, step, look, is_over)]
        except BrokenOff:
            told = f"the pictures after step {step} are not drawn to the end: the run is asked to stop"
            self.reporter.report(Notice(f"{told}, and draws them when it goes on"))
            return
        if drawn:
            self._lay_out(drawn, step)

    def _lay_out(self, drawn: Sequence[Drawn], step: int) -> None:
        """Put pictures beside others, and tell about them."""
        for one in drawn:
            self._write_history(one, step)
        for path in (self.sheet_path, self._sheet_of(step)):  # the last one says that all others are there
            self._write(path, png(self._sheet(step, drawn)))
        paths, prompts = tuple(str(one.path) for one in drawn), tuple(one.shot.label for one in drawn)
        self.reporter.report(ImagesSaved(step, paths, prompts, str(self.sheet_path)))
        self._score(drawn, step)

    def has_drawn(self, step: int) -> bool:
        """Whether everything is there that is drawn after a step; nothing is, where drawing is off or a script's."""
        return not self.is_on or self.script is not None or self._sheet_of(step).exists()

    def examples(self, step: int) -> list[tuple[str, str]]:
        """The prompts drawn after a step as they are with what was trained, with the paths of their pictures."""
        kind, look = self.options.validation_image_format, self.looks[0].slug
        named = [
            (shot.prompt, f"{_FOLDER}/{file_name(step, shot, number, look, kind)}")
            for number, shot in enumerate(self.shots)
            if shot.adapter_strength == 1
        ]
        return [(prompt, path) for prompt, path in named if (self.folder / path).exists()]

    @property
    def sheet_path(self) -> Path:
        """The newest sheet."""
        return self.folder / "before_and_after.png"

    def _sheet_of(self, step: int) -> Path:
        return self.folder / _FOLDER / f"step_{step}_sheet.png"

    def _drawn(
        self, denoiser: Denoiser, trained: Trained, step: int, look: Look, is_over: Callable[[], bool]
    ) -> Iterator[Drawn]:
        shots = [self._from_other_noise(shot, number, step) for number, shot in enumerate(self.shots)]
        stage = f"validation images {look.slug}".rstrip()
        with look.wear(), self._watching(step) as watch:
            images = self.studio.draw(
                denoiser, shots, stage, watch=watch, at=lambda own: trained.at(self.strength * own), is_over=is_over
            )
        for number, (shot, image) in enumerate(zip(shots, images, strict=True)):
            if image is not None:
                kind = self.options.validation_image_format
                path = self.folder / _FOLDER / file_name(step, shot, number, look.slug, kind)
                written = FORMATS[kind].write(image, _texts(shot), self.options.validation_image_quality)
                self._write(path, written)
                yield Drawn(shot, number, look.slug, image, path)

    def _watching(self, step: int) -> AbstractContextManager[Watcher | None]:
        return nullcontext() if self.previews is None else self.previews.of_step(step)

    def _from_other_noise(self, shot: Shot, number: int, step: int) -> Shot:
        if not self.options.validation_randomize:
            return shot
        return replace(shot, seed=derive(shot.seed, "validation", step, number))

    def _sheet(self, step: int, drawn: Sequence[Drawn]) -> Image.Image:
        starts = self._start_images()
        names = [f"step {step}{f', {look.slug}' if look.slug else ''}" for look in self.looks]
        has_base = not self.options.disable_benchmark
        columns = self._placed(["start"] if starts else [], ["base model"] * has_base + names)
        rows = []
        for number, shot in enumerate(self.shots):
            images: list[Image.Image | None] = [self._base_image(shot)] if has_base else []
            images += [_found(drawn, number, look.slug) for look in self.looks]
            rows.append(Row(shot.label, self._placed([starts.get(shot)] if starts else [], images)))
        return sheet(f"{self.folder.name}, step {step}", columns, rows)

    def _placed(self, start: list[T], others: list[T]) -> list[T]:
        return others + start if self.options.validation_stitch_input_location == "right" else start + others

    def _start_images(self) -> dict[Shot, Image.Image]:
        """What shots start from, as the model sees it."""
        seen = self.studio.start_images(self.shots)
        return {shot: seen[shot.start] for shot in self.shots if shot.start in seen}

    def _write_history(self, one: Drawn, step: int) -> None:
        name = plain_name(one.shot, one.number, one.look)
        steps = {int(found[1]): path for path, found in self._earlier(name) if int(found[1]) <= step}
        base = None if self.options.disable_benchmark else self._base_path(self.shots[one.number])
        cells = [("base model", base)] if base is not None and base.exists() else []
        cells += [(f"step {number}", steps[number]) for number in sorted(steps)]
        page = history(one.shot.label, cells)
        self._write(self.folder / _FOLDER / f"history_{name}.png", png(page))

    def _earlier(self, name: str) -> Iterator[tuple[Path, re.Match[str]]]:
        pattern = re.compile(rf"step_(\d+)_{re.escape(name)}\.(?:png|webp|jpg)")
        for path in (self.folder / _FOLDER).iterdir():
            if found := pattern.fullmatch(path.name):
                yield path, found

    def _score(self, drawn: Sequence[Drawn], step: int) -> None:
        """Say how well pictures fit their prompts; there is nothing that could fit the empty one."""
        judged = [one for one in drawn if one.shot.prompt]
        if self.options.evaluation_type != "clip" or not judged:
            return
        import torch

        source = self.options.pretrained_evaluation_model_name_or_path
        try:
            with scores.scorer(source, self.studio.runtime.device) as score:
                found = {
                    plain_name(one.shot, one.number, one.look): score(one.image, one.shot.prompt) for one in judged
                }
        except torch.OutOfMemoryError:
            self.reporter.report(
                Notice("validation: there is too little memory to score pictures; they are not scored")
            )
        else:
            self.reporter.report(Scored(step, found, scores.summary(list(found.values()))))
        self.studio.runtime.release()

    def _base_path(self, shot: Shot) -> Path:
        studio = self.studio
        settings = (studio.base, shot, studio.real_from, studio.sampler, studio.skip)
        mark = blake2b(repr(settings).encode(), digest_size=4).hexdigest()
        name = f"{shot.name}_{shot.width}x{shot.height}_{mark}.png"
        return self.folder / "benchmarks" / "base_model" / name

    def _base_image(self, shot: Shot) -> Image.Image | None:
        from PIL import Image

        path = self._base_path(shot)
        if not path.exists():
            return None
        with Image.open(path) as image:
            return image.convert("RGB")

    def _write(self, path: Path, data: bytes) -> None:
        LocalStore(self.folder).write(path.relative_to(self.folder).as_posix(), data)


def _found(drawn: Sequence[Drawn], number: int, look: str) -> Image.Image | None:
    return next((one.image for one in drawn if (one.number, one.look) == (number, look)), None)


def _texts(shot: Shot) -> Mapping[str, str]:
    strength = {} if shot.adapter_strength == 1 else {"adapter_strength": f"{shot.adapter_strength:g}"}
    return {"prompt": shot.prompt, "seed": str(shot.seed), **strength}


_FOLDER = "validation_images"
