"""Photographs of synthetic people as teachers of themselves, one after the other: what adaptation will meet.

Each person is drawn once as a camera would see them; the photograph then goes the way of a user's: face found, cropped,
split into layers, head fitted, and its puppet (`r3p.puppet`) shows it from other cameras with other expressions.
"""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from data_pipelines.ahead import draw_ahead
from data_pipelines.people import People
from r3p import avatar
from r3p.detect import FaceFinder
from r3p.errors import InputError
from r3p.puppet import Puppet

PHOTOGRAPH = 512  # pixels


class Puppets:
    """Puppet `k` of a seed is always the same, whatever was drawn before."""

    def __init__(self, seed: int, size: int, pncc_size: int) -> None:
        self.seed, self.size, self.pncc_size = seed, size, pncc_size
        self._people = People(seed, PHOTOGRAPH, pncc_size, per_person=1)
        self._finder = FaceFinder(threads=1)

    def __getitem__(self, index: int) -> Puppet:
        """The puppet of a person. Raises InputError when no face is found in 20 people, which is no accident."""
        for attempt in range(20):
            rng = np.random.default_rng([self.seed, index, attempt])
            image = self._people.example(rng)["source"]
            try:
                crop, layers, fitted = avatar.find_portrait(image, self._finder, name=f"person {index}")
            except InputError:
                continue  # a cap over the eyes, say: the next attempt is another person
            return Puppet(crop.image, crop.landmarks, fitted, layers, size=self.size, pncc_size=self.pncc_size)
        raise InputError(f"no face was found in 20 drawings of person {index}: look at data_pipelines.people --sheet")


def batches(
    seed: int, size: int, pncc_size: int, length: int, batch_size: int, first_step: int, keys: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches from `first_step` on, `length` steps in a row of the same person.

    Besides `keys` a batch has `place` float32 [b] in [0, 1): how far its person's steps have come. A run that resumes
    amid a person begins it anew.
    """
    puppets = Puppets(seed, size, pncc_size)
    shown: tuple[int, Puppet] | None = None

    def draw(step: int) -> dict[str, np.ndarray]:
        nonlocal shown
        who, place = divmod(step, length)
        if shown is None or shown[0] != who:
            shown = who, puppets[who]
        puppet = shown[1]
        examples = [puppet.example(np.random.default_rng([seed, step, k])) for k in range(batch_size)]
        batch = {key: np.stack([e[key] for e in examples]) for key in keys}
        return batch | {"place": np.full(batch_size, 0 if step == first_step else place / length, np.float32)}

    yield from draw_ahead(draw, count(first_step))
