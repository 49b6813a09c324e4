"""Batches of teacher examples by step: shuffled, then sliced by process, a pure function of the step (grain).

A process reads a run of consecutive rows of every batch, so that the batch is the same whatever their number.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import grain
import numpy as np

from data_pipelines.people_shards import PeopleShards


def batches(
    folder: str | Path,
    batch_size: int,
    seed: int,
    first_step: int,
    keys: Sequence[str],
    process: tuple[int, int] = (0, 1),
    count: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of one process, from `first_step` on: `keys`, and `example` int32 [b], which ones they are.

    Args:
      folder: shards of `data_pipelines.people`.
      batch_size: examples of a step over all processes.
      seed: of the order, which differs in every epoch.
      first_step: where a resumed run goes on.
      keys: fields to keep.
      process: (index, count) of processes.
      count: use only that many of the examples; 0 = all.
    """
    index, processes = process
    source = PeopleShards(folder)
    data = grain.MapDataset.range(count or len(source)).seed(seed).shuffle().repeat()
    chosen = data.map(
        lambda place: {k: v for k, v in source[place].items() if k in keys} | {"example": np.int32(place)}
    )
    loaded = chosen.batch(batch_size // processes)
    step = first_step
    while True:
        yield loaded[step * processes + index]
        step += 1
