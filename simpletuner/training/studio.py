"""From prompts to pictures: all is sampled, then all is decoded, so that memory need not hold everything at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from simpletuner.models.family import SamplingSchedule
from simpletuner.models.references import channel as name_of_channel
from simpletuner.models.references import name as name_of_reference
from simpletuner.models.references import without_references
from simpletuner.models.samplers import SAMPLERS
from simpletuner.models.sampling import Course, Guidance, Watch, sample
from simpletuner.models.skipping import Skip
from simpletuner.progress import Advanced, Notice, Reporter, StageStarted
from simpletuner.training.batches import Prompts, stacked
from simpletuner.training.prompts import Shot, Start
from simpletuner.training.runtime import Runtime

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from simpletuner.models.family import Denoiser, LatentCodec


class BrokenOff(Exception):
    """Pictures are not drawn to the end, because somebody asked the run to stop."""


def _no_references(height: int, width: int) -> Mapping[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Studio:
    """What drawing needs besides the denoiser."""

    codec: Callable[[bool], AbstractContextManager[LatentCodec]]
    """Opens the decoder; told whether it must work in tiles."""
    schedule: Callable[[int, int, int], SamplingSchedule]
    """The noise levels of a number of steps, for latents of a height and width."""
    prompts: Prompts
    base: str
    """Names the base model and its precision, so that its pictures are not taken for another's."""
    runtime: Runtime
    reporter: Reporter
    references: Callable[[int, int], Mapping[str, Tensor]] = _no_references
    """Pictures that every shot is shown, for latents of a height and width, with a batch axis of one."""
    of_data: Callable[[str, int], Tensor] | None = None
    """The latents of an image of a data set."""
    sampler: str = "euler"
    real_from: int = 0
    skip: Skip | None = None
    scale: int = 8
    channels: int = 16
    can_step_aside: bool = True
    """Whether the network may be moved away from the device for a moment."""

    def draw(
        self,
        denoiser: Denoiser,
        shots: Sequence[Shot],
        stage: str,
        *,
        watch: Callable[[Shot, int], AbstractContextManager[Watch]] | None = None,
        at: Callable[[float], AbstractContextManager[object]] = nullcontext,
        is_over: Callable[[], bool] = lambda: False,
    ) -> list[Image.Image | None]:
        """Draw every shot; what memory does not suffice for is told, and left out.

        Args:
            denoiser: What draws.
            shots: What is drawn.
            stage: What is told that is done.
            watch: Sees how a shot is drawn.
            at: Gives what was trained the strength of a shot for a moment.
            is_over: Whether somebody asked the run to stop; looked at before each shot.

        Raises:
            BrokenOff: Somebody did.
        """
        self.reporter.report(StageStarted(stage, len(shots)))
        with drawing(denoiser):
            starts = self.starts(shots)
            latents = []
            for shot in shots:
                if is_over():
                    raise BrokenOff
                with at(shot.adapter_strength):
                    latents.append(self._sampled(denoiser, shot, starts.get(shot.start), watch))
                self.reporter.report(Advanced(1))
            found = self._decoded(denoiser, shots, latents)
        self.runtime.release()
        return found

    def starts(self, shots: Sequence[Shot]) -> dict[Start | None, Tensor]:
        """The latents of the pictures that shots start from."""
        wanted = {shot.start: shot for shot in shots if shot.start is not None}
        found: dict[Start | None, Tensor] = {}
        for one in wanted:
            if one.place is not None and self.of_data is not None:
                found[one] = self.of_data(one.source, one.place)[None]
        for is_tiled in (False, True):
            left = [one for one in wanted if one not in found]
            if left:
                found |= self._encoded(is_tiled, {one: wanted[one] for one in left})
        return found

    def _encoded(self, is_tiled: bool, wanted: Mapping[Start, Shot]) -> dict[Start | None, Tensor]:
        """The latents of files, as many as memory suffices for."""
        import torch

        found: dict[Start | None, Tensor] = {}
        try:
            with self.codec(is_tiled) as codec:
                for one, shot in wanted.items():
                    found[one] = codec.encode(_pixels(one, shot.width, shot.height)).mean
        except torch.OutOfMemoryError:
            self.runtime.release()
        return found

    def start_images(self, shots: Sequence[Shot]) -> dict[Start, Image.Image]:
        """What shots start from, as the model sees it; what memory does not suffice for is left out."""
        latents = {start: one for start, one in self.starts(shots).items() if start is not None}
        found: list[Image.Image | None] = [None] * len(latents)
        left = list(range(len(latents)))
        for is_tiled in (False, True):
            left = self._decoded_so(is_tiled, left, list(latents.values()), found) if left else left
        return {start: image for start, image in zip(latents, found, strict=True) if image is not None}

    def _sampled(
        self,
        denoiser: Denoiser,
        shot: Shot,
        start: Tensor | None,
        watch: Callable[[Shot, int], AbstractContextManager[Watch]] | None,
    ) -> Tensor | None:
        import torch

        is_startable = shot.start is None or start is not None
        for _ in range(2 if is_startable else 0):
            try:
                return self._latents(denoiser, shot, start, watch).cpu()
            except torch.OutOfMemoryError:
                self.runtime.release()
        told = f"validation: there is too little memory to draw '{shot.name}' with {shot.width}x{shot.height} pixels"
        self.reporter.report(Notice(f"{told}; it is left out. Lower validation_resolution."))
        return None

    def _latents(
        self,
        denoiser: Denoiser,
        shot: Shot,
        start: Tensor | None,
        watch: Callable[[Shot, int], AbstractContextManager[Watch]] | None,
    ) -> Tensor:
        import torch

        height, width = shot.height // self.scale, shot.width // self.scale
        noise = torch.randn((1, self.channels, height, width), generator=torch.Generator().manual_seed(shot.seed))
        course = Course(self.schedule(shot.steps, height, width), SAMPLERS[self.sampler]())
        shown = self.references(height, width)
        if start is not None and name_of_reference(0) in shown:
            shown = {**without_references(shown), name_of_reference(0): start}
        elif start is not None and name_of_channel(0) in shown:
            shown = {**shown, name_of_channel(0): start}
        elif start is not None and shot.start is not None:
            course = course.shortened(shot.start.strength)
            level = course.schedule.sigmas[0]
            noise = (1 - level) * start + level * noise
        given = self._conditioning(shot.prompt, shown)
        negative = self._conditioning(shot.negative, shown) if shot.real > 1 else None
        guidance = Guidance(shot.guidance, shot.real, self.real_from, self.skip)
        with watch(shot, len(course.schedule.sigmas) - 1) if watch else nullcontext(course.watch) as told:
            course = Course(course.schedule, course.solver, told)
            with self.runtime.autocast():
                return sample(denoiser, noise.to(self.runtime.device), given, negative, course, guidance)

    def _conditioning(self, prompt: str, shown: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        given = {**stacked([self.prompts[prompt]]), **shown}
        return {name: tensor.to(self.runtime.device) for name, tensor in given.items()}

    def _decoded(
        self, denoiser: Denoiser, shots: Sequence[Shot], latents: Sequence[Tensor | None]
    ) -> list[Image.Image | None]:
        """All pictures, by the first way that memory suffices for."""
        found: list[Image.Image | None] = [None] * len(shots)
        left = [number for number, one in enumerate(latents) if one is not None]
        for is_tiled, aside, told in self._ways(denoiser):
            if left and told:
                self.reporter.report(Notice(f"validation: memory ran out while pictures were decoded; {told}"))
            with aside():
                left = self._decoded_so(is_tiled, left, latents, found) if left else left
        if left:
            names = ", ".join(shots[number].name for number in left)
            told = f"validation: there is too little memory to decode {names}; they are left out"
            self.reporter.report(Notice(f"{told}. Lower validation_resolution."))
        return found

    def _decoded_so(
        self, is_tiled: bool, left: list[int], latents: Sequence[Tensor | None], found: list[Image.Image | None]
    ) -> list[int]:
        """Decode in one way what is left; returns what still is, when memory runs out."""
        import torch

        try:
            with self.codec(is_tiled) as codec:
                while left:
                    one = latents[left[0]]
                    assert one is not None, "only what was sampled is decoded"
                    found[left[0]] = picture(codec.decode(one))
                    left = left[1:]
        except torch.OutOfMemoryError:
            pass
        self.runtime.release()
        return left

    def _ways(self, denoiser: Denoiser) -> Iterator[tuple[bool, Callable[[], AbstractContextManager[None]], str]]:
        yield False, nullcontext, ""
        yield True, nullcontext, "it is tried again in tiles"
        if self.can_step_aside:
            yield True, partial(stepped_aside, denoiser.module), "it is tried again with the model moved away"


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


@contextmanager
def stepped_aside(module: nn.Module) -> Iterator[None]:
    """A moment in which a network is in the memory of the processor, and not on its device."""
    tensors = [*module.parameters(), *module.buffers()]
    places = [one.device for one in tensors]
    try:
        for one in tensors:
            one.data = one.data.cpu()
        yield
    finally:
        for one, place in zip(tensors, places, strict=True):
            one.data = one.data.to(place)


def picture(pixels: Tensor) -> Image.Image:
    """The first of some pixels in -1..1 with shape (batch, 3, height, width)."""
    from PIL import Image

    levels = ((pixels[0].permute(1, 2, 0) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.numpy())


def fitted(source: str, width: int, height: int) -> Image.Image:
    """A picture from a file in a size, cut where its shape is another."""
    from PIL import Image, ImageOps

    with Image.open(source) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)


def _pixels(start: Start, width: int, height: int) -> Tensor:
    import numpy as np
    import torch

    levels = torch.from_numpy(np.array(fitted(start.source, width, height)))
    return (levels.permute(2, 0, 1)[None].float() / 127.5) - 1
