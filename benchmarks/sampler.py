"""How long does it take to say which pictures make up batch 1,000,000 of a data set of 1,000,000?

A run that resumes asks this once. Against a sampler that has to be run from the beginning: one permutation an epoch.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import setting
import torch

from simpletuner.data import captions, geometry
from simpletuner.data.dataset import Dataset
from simpletuner.data.manifest import Manifest, Row, table_of
from simpletuner.data.records import Placer, Records
from simpletuner.data.sampler import Order
from simpletuner.data.sources import Local
from simpletuner.data.timeline import Window


def main() -> None:
    """Print how long it takes to get to a batch far away, and to the ones after it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="how many pictures the data set has")
    parser.add_argument("--batch", type=int, default=1_000_000, help="the number of the batch")
    parser.add_argument("--batch-size", type=int, default=4, help="how many pictures make a batch")
    options = parser.parse_args()
    setting.print_setting()
    dataset = _dataset(options.records, options.batch_size)
    buckets = setting.timed(lambda: dataset.buckets)
    windowed = replace(dataset, id="windowed", window=Window(first_epoch=2, first_step=options.records // 3))
    order, both = Order([dataset], seed=1), Order([dataset, windowed], seed=1)
    far, following = options.batch, range(options.batch + 1, options.batch + 1001)
    rows = {
        f"a plain sampler: every permutation up to batch {far:,}": setting.timed(
            lambda: _plain(options.records, options.batch_size, far)
        ),
        "images sorted into buckets": buckets,
        "Order, made": setting.timed(lambda: Order([dataset], seed=1)),
        "Order, batch 0": setting.timed(lambda: order.batch(0)),
        f"Order, batch {far:,}": setting.timed(lambda: order.batch(far)),
        "Order, each of the next 1,000": _each(setting.timed(lambda: [order.batch(one) for one in following]), 1000),
        "Order with a window within an epoch, made": setting.timed(lambda: Order([dataset, windowed], seed=1)),
        f"Order with a window within an epoch, batch {far:,}": setting.timed(lambda: both.batch(far)),
    }
    setting.print_table(
        ("work", "wall", "processor"),
        [[name, setting.milliseconds(time.wall), setting.milliseconds(time.cpu)] for name, time in rows.items()],
    )


def _dataset(count: int, batch_size: int) -> Dataset:
    """Records in ten buckets, as a scan would have made them; there are no files."""
    sizes = [(64 * (8 + number), 64 * (17 - number)) for number in range(10)]
    rows = [
        Row(f"{number:07}.jpg", "1", 9, *sizes[number % 10], digest=str(number), captions=["a caption"])
        for number in range(count)
    ]
    entry = Local(id="pictures", instance_data_dir=Path())
    manifest = Manifest(Path(), table_of(rows))
    placer = Placer(geometry.Rules(resolution=768), 1, entry.id)
    return Dataset(
        id=entry.id,
        source=entry.open(),
        records=Records(manifest, np.arange(count), placer, captions.Rules("textfile")),
        repeats=0,
        probability=1.0,
        batch_size=batch_size,
        regularise=False,
        options=entry,
    )


def _plain(records: int, batch_size: int, batch: int) -> list[int]:
    """What a sampler with a state must do: draw every epoch up to the one that holds the batch."""
    generator = torch.Generator().manual_seed(1)
    epoch, place = divmod(batch, -(-records // batch_size))
    for _ in range(epoch + 1):
        permutation = torch.randperm(records, generator=generator)
    found: list[int] = permutation[place * batch_size : (place + 1) * batch_size].tolist()
    return found


def _each(time: setting.Time, count: int) -> setting.Time:
    return setting.Time(time.wall / count, time.cpu / count)


if __name__ == "__main__":
    main()
