"""Photographs of synthetic people as teachers of themselves, one after the other: what adaptation will meet.

Each person is drawn once as a camera would see them; the photograph then goes the way of a user's: face found, cropped,
split into layers, head fitted, and its puppet (`r3p.puppet`) shows it from other cameras with other expressions.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count

import cv2
import grain
import numpy as np
from absl import flags

from data_pipelines.ahead import draw_ahead
from data_pipelines.people import People
from data_pipelines.people_shards import PeopleShards
from r3p.errors import InputError

PHOTOGRAPH = 512  # pixels


class Puppets:
    """Puppet `k` of a seed is always the same, whatever was drawn before."""

    def __init__(self, seed: int, size: int, pncc_size: int, spread: float = 0.0) -> None:
        self.seed, self.size, self.pncc_size, self.spread = seed, size, pncc_size, spread

    @cached_property  # not in __init__: workers get a copy of this object before they use it
    def _people(self) -> People:
        return People(self.seed, PHOTOGRAPH, self.pncc_size, per_person=1)

    @cached_property
    def _finder(self):  # type: ignore[no-untyped-def]
        from r3p.detect import FaceFinder

        return FaceFinder(threads=1)

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
        """The puppet of a person. Raises InputError when no face is found in 20 people, which is no accident."""
        from r3p.avatar import find_portrait
        from r3p.puppet import Puppet

        for attempt in range(20):
            rng = np.random.default_rng([self.seed, index, attempt])
            image = self._people.example(rng)["source"]
            try:
                crop, layers, fitted = find_portrait(image, self._finder, name=f"person {index}")
            except InputError:
                continue  # a cap over the eyes, say: the next attempt is another person
            return Puppet(
                crop.image, crop.landmarks, fitted, layers,
                size=self.size, pncc_size=self.pncc_size, spread=self.spread,
            )  # fmt: skip
        raise InputError(f"no face was found in 20 drawings of person {index}: look at data_pipelines.people --sheet")


class Rows:
    """Example `step * rows + row`: what a row of the batch of a step shows.

    The first `plain` rows show people of `folder`, another at every step. Each other row shows a puppet for `length`
    steps, then the next; rows change at different steps.

    Besides `keys` an example has `place` float32 in [0, 1): how far its portrait's steps have come; 0 at first, and
    always in plain rows. A run that goes on from `first_step` begins its portraits anew.
    """

    def __init__(
        self, puppets: Puppets, rows: int, plain: int, folder: str, length: int, first_step: int, keys: Sequence[str]
    ) -> None:
        if not 0 <= plain <= rows or (plain and not folder):
            raise InputError(f"{plain} plain rows of {rows} with people from {folder!r}: give fewer rows, or a folder")
        self.puppets, self.rows, self.plain, self.length = puppets, rows, plain, length
        self.people = PeopleShards(folder, keep=1_000_000) if plain else None
        self.first_step, self.keys = first_step, keys
        self._shown: dict[int, tuple[int, object]] = {}

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        step, row = divmod(int(index), self.rows)
        rng = np.random.default_rng([self.puppets.seed, step, row])
        place = 0.0
        if row < self.plain:
            assert self.people is not None
            example = self.people[int(rng.integers(len(self.people)))]
        else:
            late = (row - self.plain) * self.length // (self.rows - self.plain)
            turn, at = divmod(step + late, self.length)
            who = turn * self.rows + row
            if self._shown.get(row, (-1, None))[0] != who:
                self._shown[row] = who, self.puppets[who]
            example = self._shown[row][1].example(rng)  # type: ignore[attr-defined]
            place = 0.0 if step == self.first_step else at / self.length
        return {key: example[key] for key in self.keys} | {"place": np.array(place, np.float32)}

    def __repr__(self) -> str:  # grain keys its checkpoints by it
        return f"Rows({self.puppets.seed}, {self.rows}, {self.plain}, {self.length})"


def batches(rows: Rows, workers: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches from the rows' first step on.

    workers: processes, each of which draws some rows (so their number divides the rows'); 0 = one thread.
    """
    first = rows.first_step * rows.rows
    if workers and rows.rows % workers:
        raise InputError(f"{workers} workers do not divide {rows.rows} rows: change data.workers or batch_size")
    if not workers:

        def draw(step: int) -> dict[str, np.ndarray]:
            examples = [rows[step * rows.rows + row] for row in range(rows.rows)]
            return {key: np.stack([e[key] for e in examples]) for key in examples[0]}

        yield from draw_ahead(draw, count(rows.first_step))
        return
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks them, and this is no absl program
    data = grain.MapDataset.source(rows)[first:].to_iter_dataset(
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    )
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=12)
    yield from data.mp_prefetch(options, worker_init_fn=_one_thread).batch(rows.rows)


def _one_thread(worker: int, workers: int) -> None:
    cv2.setNumThreads(1)  # the workers share the processors already
