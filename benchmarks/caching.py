"""How many pictures and captions a second go through the caches?

Against the encoders alone, fed with the same pictures in the same batches, and against the plainest loop that leaves
the same on disk: read, resize, encode, save, one after the other. Loading the encoders is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import setting
import torch
from safetensors.torch import save_file

from simpletuner.caching.latents import LatentCache
from simpletuner.caching.prompts import PromptCache
from simpletuner.caching.tensors import TensorCache
from simpletuner.data.dataset import Dataset
from simpletuner.data.opening import open_all
from simpletuner.data.options import DataDefaults
from simpletuner.data.sources import Local
from simpletuner.models.families import FAMILIES
from simpletuner.models.family import Compute, LatentCodec, Sources, TextEncoder, TextSettings
from simpletuner.progress import Recorded
from simpletuner.storage.local import LocalStore


def main() -> None:
    """Print pictures and captions a second for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40, help="how many pictures are encoded")
    parser.add_argument("--captions", type=int, default=100, help="how many captions are encoded")
    parser.add_argument("--resolution", type=int, default=256, help="the resolution of the data set, in pixels")
    parser.add_argument("--batch-size", type=int, default=4, help="vae_batch_size")
    parser.add_argument("--tokens", type=int, default=512, help="how many tokens of a caption count; FLUX.1 dev: 512")
    parser.add_argument("--repeats", type=int, default=5, help="how often each way is taken")
    options = parser.parse_args()
    setting.print_setting()
    family, compute = FAMILIES["flux"], Compute(torch.device("cpu"), torch.float32)
    weights = family.weights(Sources(base=str(setting.MODEL)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with family.codec(weights, compute, tiling=False, slicing=False) as codec:
            images = Images.drawn(folder, options, codec)
            _print("pictures", options.images, setting.taking_turns(images.ways(), options.repeats))
        with family.text_encoder(
            weights, TextSettings(("no_change", "no_change"), options.tokens, "unmodified"), compute
        ) as encode:
            texts = Texts(folder, [f"red circle {one}" for one in range(options.captions)], encode)
            _print("captions", options.captions, setting.taking_turns(texts.ways(), options.repeats))


def _print(noun: str, count: int, times: Mapping[str, list[setting.Time]]) -> None:
    bare = setting.median(next(iter(times.values())))
    rows = []
    for name, each in times.items():
        time = setting.median(each)
        per = [setting.milliseconds(time.wall / count), setting.milliseconds(time.cpu / count)]
        rows.append([name, f"{count / time.wall:,.1f}", *per, f"{time.wall / bare.wall:.2f}"])
    setting.print_table((noun, f"{noun}/s", "wall, each", "processor, each", "times encoder"), rows)
    print()


@dataclass(frozen=True)
class Images:
    """Pictures on their way to latents."""

    folder: Path
    dataset: Dataset
    batches: Sequence[Sequence[int]]
    """The records of each batch, which all have one size."""
    codec: LatentCodec

    @staticmethod
    def drawn(folder: Path, options: argparse.Namespace, codec: LatentCodec) -> Images:
        """Draw the pictures, scan them, and cut them into batches as the cache does."""
        low, high = options.resolution, options.resolution * 2
        pictures = setting.draw_pictures(folder / "pictures", options.images, shortest=low, longest=high)
        entry = Local(
            id="pictures",
            instance_data_dir=pictures,
            caption_strategy="textfile",
            resolution=options.resolution,
            aspect_bucket_rounding=1,
        )
        opened = open_all(
            [entry], DataDefaults(), train_batch_size=1, cache=folder / "scan", seed=1, reporter=Recorded()
        )
        (dataset,) = opened.training
        return Images(folder, dataset, list(_batches(dataset, options.batch_size)), codec)

    def ways(self) -> Mapping[str, Callable[[], setting.Time]]:
        """Each way from pictures to latents."""
        prepared = [self._pixels(batch) for batch in self.batches]
        fresh = (self.folder / f"latents {number}" for number in itertools.count())
        ways: dict[str, Callable[[], object]] = {
            "the encoder alone": lambda: [self.codec.encode(pixels) for pixels in prepared],
            "read, resize, encode, save": lambda: self._plainly(next(fresh)),
            "LatentCache.fill": lambda: self._through_cache(next(fresh)),
        }
        return {name: lambda way=way: setting.timed(way) for name, way in ways.items()}

    def _plainly(self, folder: Path) -> None:
        folder.mkdir()
        for batch in self.batches:
            found = self.codec.encode(self._pixels(batch))
            for number, place in enumerate(batch):
                entry = {"mean": found.mean[number].contiguous(), "std": found.std[number].contiguous()}
                save_file(entry, folder / f"{place}.safetensors")

    def _through_cache(self, folder: Path) -> None:
        cache = LatentCache({self.dataset.id: TensorCache(LocalStore(folder), "benchmark")})
        size = max(len(batch) for batch in self.batches)
        cache.fill([self.dataset], lambda: nullcontext(self.codec), size, Recorded())

    def _pixels(self, batch: Sequence[int]) -> torch.Tensor:
        import numpy as np

        pictures = [self.dataset.image(self.dataset.records[place]) for place in batch]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _batches(dataset: Dataset, size: int) -> Iterator[list[int]]:
    buckets: dict[object, list[int]] = {}
    for place, record in enumerate(dataset.records):
        buckets.setdefault(record.placement.bucket, []).append(place)
    for places in buckets.values():
        yield from (places[start : start + size] for start in range(0, len(places), size))


@dataclass(frozen=True)
class Texts:
    """Captions on their way to embeddings, one by one as text_encoder_batch_size has it."""

    folder: Path
    captions: Sequence[str]
    encode: TextEncoder

    def ways(self) -> Mapping[str, Callable[[], setting.Time]]:
        """Each way from captions to embeddings."""
        fresh = (self.folder / f"texts {number}" for number in itertools.count())
        ways: dict[str, Callable[[], object]] = {
            "the encoders alone": lambda: [self.encode([caption]) for caption in self.captions],
            "encode, save": lambda: self._plainly(next(fresh)),
            "PromptCache.fill": lambda: self._through_cache(next(fresh)),
        }
        return {name: lambda way=way: setting.timed(way) for name, way in ways.items()}

    def _plainly(self, folder: Path) -> None:
        folder.mkdir()
        for number, caption in enumerate(self.captions):
            (found,) = self.encode([caption])
            save_file({name: one.contiguous() for name, one in found.items()}, folder / f"{number}.safetensors")

    def _through_cache(self, folder: Path) -> None:
        cache = TensorCache(LocalStore(folder), "benchmark")
        PromptCache().fill([(cache, self.captions)], lambda: nullcontext(self.encode), 1, Recorded())


if __name__ == "__main__":
    main()
