"""Validation pictures that start from images of the data sets, to see how the model would change them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from simpletuner.data.dataset import Dataset
from simpletuner.seeds import derive
from simpletuner.training.options import Validation
from simpletuner.training.prompts import STRENGTH, Shot, Start, file_names


def of_data(options: Validation, datasets: Sequence[Dataset], seed: int) -> tuple[Shot, ...]:
    """A picture for some images of each data set, always the same ones; none unless that is asked for."""
    if not options.validation_using_datasets:
        return ()
    first = options.validation_seed if options.validation_seed is not None else seed
    named = {f"{dataset.id}_{number}": shot for dataset in datasets for number, shot in _of(options, dataset, first)}
    return tuple(replace(shot, name=name) for name, shot in file_names(named).items())


def _of(options: Validation, dataset: Dataset, seed: int) -> Iterator[tuple[int, Shot]]:
    for number, place in enumerate(_chosen(dataset, options.num_eval_images)):
        record = dataset.records[place]
        width, height = record.placement.bucket
        yield (
            number,
            Shot(
                name=dataset.id,
                prompt=(record.captions or ("",))[0],
                width=width,
                height=height,
                seed=seed,
                steps=options.validation_num_inference_steps,
                guidance=options.validation_guidance,
                real=options.validation_guidance_real,
                negative=options.validation_negative_prompt,
                start=Start(dataset.id, f"{record.digest}:{record.placement}", STRENGTH, place),
            ),
        )


def _chosen(dataset: Dataset, count: int) -> list[int]:
    keys = dataset.records.all_keys()
    ranked = sorted(range(len(keys)), key=lambda place: derive(0, "validation start", dataset.id, keys[place]))
    return sorted(ranked[:count])
