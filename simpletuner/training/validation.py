"""Validation: draw the prompts, save the images, and lay them beside what the base model drew."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from simpletuner.models.adapters.adapter import Adapter
from simpletuner.models.family import SamplingSchedule
from simpletuner.models.sampling import Guidance, sample
from simpletuner.progress import Advanced, ImagesSaved, Reporter, StageStarted
from simpletuner.storage.local import LocalStore
from simpletuner.training.batches import Prompts, stacked
from simpletuner.training.prompts import Shot
from simpletuner.training.runtime import Runtime
from simpletuner.training.sheets import Row, sheet

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from simpletuner.models.family import Denoiser, LatentCodec
    from simpletuner.training.options import Validation as Options


@dataclass(frozen=True)
class Studio:
    """What drawing needs besides the denoiser."""

    codec: Callable[[], AbstractContextManager[LatentCodec]]
    """Opens the decoder."""
    schedule: Callable[[int, int], SamplingSchedule]
    """Noise levels for latents of a height and width."""
    prompts: Prompts
    base: str
    """Names the base model and its precision, so that its pictures are not taken for another's."""
    references: Mapping[str, Tensor] = field(default_factory=dict)
    """Pictures that every shot starts from, with a batch axis of one."""
    scale: int = 8
    channels: int = 16


@dataclass(frozen=True)
class Validation:
    """Draws the shots of a run whenever it is asked to."""

    options: Options
    shots: Sequence[Shot]
    studio: Studio
    folder: Path
    runtime: Runtime
    reporter: Reporter

    @property
    def is_on(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.shots) and not self.options.validation_disable

    def draw_base(self, denoiser: Denoiser, adapter: Adapter) -> None:
        """Draw what the base model makes of the prompts, once; images of earlier runs with the same settings stay."""
        missing = [shot for shot in self.shots if not self._base_path(shot).exists()]
        if not self.is_on or self.options.disable_benchmark or not missing:
            return
        with adapter.without():
            for shot, image in self._draw(denoiser, missing, "base model images"):
                self._save(self._base_path(shot), image, shot)

    def draw(self, denoiser: Denoiser, step: int) -> None:
        """Draw every shot with the adapter as it is now, and the sheet that compares."""
        if not self.is_on:
            return
        paths, rows = [], []
        for number, (shot, image) in enumerate(self._draw(denoiser, self.shots, "validation images")):
            path = (
                self.folder / "validation_images" / f"step_{step}_{shot.name}_{number}_{shot.width}x{shot.height}.png"
            )
            self._save(path, image, shot)
            paths.append(str(path))
            rows.append(Row(shot.prompt, [*self._base_image(shot), image]))
        columns = ("base model", f"step {step}") if not self.options.disable_benchmark else (f"step {step}",)
        page = sheet(f"{self.folder.name}, step {step}", columns, rows)
        for path in (self.folder / "validation_images" / f"step_{step}_sheet.png", self.sheet_path):
            self._write(path, _png(page))
        self.reporter.report(
            ImagesSaved(step, tuple(paths), tuple(shot.prompt for shot in self.shots), str(self.sheet_path))
        )

    @property
    def sheet_path(self) -> Path:
        """The newest sheet."""
        return self.folder / "before_and_after.png"

    def _draw(self, denoiser: Denoiser, shots: Sequence[Shot], stage: str) -> list[tuple[Shot, Image.Image]]:
        self.reporter.report(StageStarted(stage, len(shots)))
        drawn = []
        with drawing(denoiser), self.studio.codec() as codec:
            for shot in shots:
                with self.runtime.autocast():
                    latents = self._latents(denoiser, shot)
                drawn.append((shot, _picture(codec.decode(latents))))
                self.reporter.report(Advanced(1))
        self.runtime.release()
        return drawn

    def _latents(self, denoiser: Denoiser, shot: Shot) -> Tensor:
        import torch

        height, width = shot.height // self.studio.scale, shot.width // self.studio.scale
        noise = torch.randn(
            (1, self.studio.channels, height, width), generator=torch.Generator().manual_seed(shot.seed)
        )
        guidance = Guidance(
            self.options.validation_guidance,
            self.options.validation_guidance_real,
            self.options.validation_no_cfg_until_timestep,
        )
        needs_negative = guidance.real > 1
        return sample(
            denoiser,
            noise.to(self.runtime.device),
            self._conditioning(shot.prompt),
            self._conditioning(self.options.validation_negative_prompt) if needs_negative else None,
            self.studio.schedule(height, width),
            guidance,
        )

    def _conditioning(self, prompt: str) -> Mapping[str, Tensor]:
        given = {**stacked([self.studio.prompts[prompt]]), **self.studio.references}
        return {name: tensor.to(self.runtime.device) for name, tensor in given.items()}

    def _base_path(self, shot: Shot) -> Path:
        options = self.options
        settings = (
            self.studio.base,
            shot,
            options.validation_guidance,
            options.validation_guidance_real,
            options.validation_no_cfg_until_timestep,
            options.validation_num_inference_steps,
            options.validation_negative_prompt,
        )
        mark = blake2b(repr(settings).encode(), digest_size=4).hexdigest()
        name = f"{shot.name}_{shot.width}x{shot.height}_{mark}.png"
        return self.folder / "benchmarks" / "base_model" / name

    def _base_image(self, shot: Shot) -> Iterator[Image.Image]:
        from PIL import Image

        if not self.options.disable_benchmark:
            with Image.open(self._base_path(shot)) as image:
                yield image.convert("RGB")

    def _save(self, path: Path, image: Image.Image, shot: Shot) -> None:
        self._write(path, _png(image, {"prompt": shot.prompt, "seed": str(shot.seed)}))

    def _write(self, path: Path, data: bytes) -> None:
        LocalStore(self.folder).write(path.relative_to(self.folder).as_posix(), data)


@contextmanager
def drawing(denoiser: Denoiser) -> Iterator[None]:
    """Eval mode without gradients, and the training mode and random state as they were afterwards."""
    import torch

    was_training = denoiser.module.training
    denoiser.module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            yield
    finally:
        denoiser.module.train(was_training)


def _picture(pixels: Tensor) -> Image.Image:
    from PIL import Image

    levels = ((pixels[0].permute(1, 2, 0) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.numpy())


def _png(image: Image.Image, texts: Mapping[str, str] | None = None) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in (texts or {}).items():
        info.add_itxt(name, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
