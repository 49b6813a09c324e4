"""What the training loop reads: the same batches whatever the number of processes, and how long it waits for them."""

from itertools import islice

import numpy as np
import pytest

from benchmarks import input as bench
from data_pipelines import portrait


class Numbers:
    """Stands in for shards: example k is k."""

    def __init__(self, folder):
        pass

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return {"source": np.full((2, 2), index, np.uint8), "unused": np.zeros(1)}


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_processes_share_every_batch(processes, monkeypatch):
    monkeypatch.setattr(portrait, "PeopleShards", Numbers)

    def read(first, process):
        return islice(portrait.batches("", 8, 5, first, ("source",), process), 6)

    parts = zip(*(read(2, (p, processes)) for p in range(processes)), strict=True)
    whole = list(read(0, (0, 1)))
    for step, shares in enumerate(parts):
        assert set(shares[0]) == {"source", "example"}
        if step + 2 < 6:  # end to end they are the batch of one process, also of a run that goes on from step 2
            for key in shares[0]:
                np.testing.assert_array_equal(np.concatenate([s[key] for s in shares]), whole[step + 2][key])
    for epoch in range(2):
        seen = np.concatenate([b["example"] for b in whole[3 * epoch : 3 * epoch + 3]])
        assert sorted(seen) == list(range(24))


def test_the_benchmark_tells_when_steps_wait(capsys):
    arguments = ["--config", "tests/toys/config.py", "--set", "pause=0.1", "--steps", "4", "--step-ms", "1", "400"]
    assert bench.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("toys.stage: batches of 16")
    short, long = (float(line.split()[-2]) for line in lines[-2:])
    assert short > 50 > 40 > long
    assert bench.main(["--config", "nothing.py"]) == 2
