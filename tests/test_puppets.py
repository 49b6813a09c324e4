"""Rows of a rehearsal: who is shown when."""

from itertools import islice

import numpy as np
import pytest

from data_pipelines.puppets import Rows, batches
from r3p.errors import InputError


class Puppets:
    """Stands for `data_pipelines.puppets.Puppets`: a puppet's examples say whose they are."""

    seed = 5

    def __init__(self):
        self.made = []

    def __getitem__(self, index):
        self.made.append(index)
        return Puppet(index)


class Puppet:
    def __init__(self, index):
        self.index = index

    def example(self, rng):
        return {"who": np.array(self.index), "drawn": rng.integers(2**31), "unwanted": 0}


def some(first, count, puppets=None):
    rows = Rows(puppets or Puppets(), 2, 0, "", 4, first, ("who", "drawn"))
    return list(islice(batches(rows, 0), count))


def test_each_row_shows_a_portrait_for_its_length_and_rows_change_at_different_steps():
    puppets = Puppets()
    shown = some(0, 8, puppets)
    assert [b["who"].tolist() for b in shown] == [[0, 1]] * 2 + [[0, 3]] * 2 + [[2, 3]] * 2 + [[2, 5]] * 2
    first = [0, 0.25, 0.5, 0.75]
    assert [float(b["place"][0]) for b in shown] == 2 * first
    # The second row would be half way at the start: there it begins anew all the same.
    assert [float(b["place"][1]) for b in shown] == [0, 0.75, *first, 0, 0.25]
    assert puppets.made[:5] == [0, 1, 3, 2, 5] and set(shown[0]) == {"who", "drawn", "place"}


def test_a_run_that_goes_on_draws_the_same_and_begins_its_portraits_anew():
    whole, rest = some(0, 8), some(5, 3)
    for a, b in zip(whole[5:], rest, strict=True):
        np.testing.assert_array_equal(a["drawn"], b["drawn"])
    assert rest[0]["place"].tolist() == [0, 0] and rest[1]["place"].tolist() == whole[6]["place"].tolist()


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match="3 workers do not divide 2 rows"):
        next(batches(Rows(Puppets(), 2, 0, "", 4, 0, ("who",)), 3))
    with pytest.raises(InputError, match="plain rows"):
        Rows(Puppets(), 2, 1, "", 4, 0, ("who",))
