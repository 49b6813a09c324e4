"""Short runs of the training stages, end to end: minutes of compiling, hence slow."""

import json

import jax
import numpy as np
import pytest

from r3p import weights
from r3p.train import load_config, train_and_evaluate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    from data_pipelines.people_shards import write_shards

    folder = tmp_path_factory.mktemp("people")
    write_shards(folder, 4, 3, 256, 192, 1, 2)
    return folder


def test_the_portrait_stage_learns_and_resumes(people, tmp_path):
    chosen = [f"data.folder={people}", "steps=2", "checkpoint_every=1"]
    first = train_and_evaluate(load_config("configs/portrait.py:smoke", chosen), tmp_path)
    config = load_config("configs/portrait.py:smoke", [*chosen[:1], "steps=3", "checkpoint_every=1"])
    second = train_and_evaluate(config, tmp_path)
    assert (int(first.step), int(second.step)) == (2, 3)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first.params, second.params)
    assert max(jax.tree.leaves(moved)) > 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 3] and all(np.isfinite(list(r.values())).all() for r in rows)


def test_a_rehearsal_starts_each_portrait_anew(tmp_path):
    from r3p.avatar import DEFAULT_WEIGHTS
    from r3p.stages import rehearsal

    config = load_config("configs/rehearsal.py:smoke", [f'start="{DEFAULT_WEIGHTS}"', "steps=3", "batch_size=1"])
    stage = rehearsal.make(config)
    step = jax.jit(stage.step)
    state = stage.init(jax.random.key(0))
    assert not np.asarray(state.params["canonical"]).any()
    planes, losses = [], []
    for k, batch in zip(range(3), stage.batches(0), strict=False):
        state, metrics = step(state, batch, jax.random.key(k))
        planes.append(np.asarray(state.params["canonical"]))
        losses.append(float(metrics["loss"]))
    near, far = np.abs(planes[1] - planes[0]).mean(), np.abs(planes[2] - planes[1]).mean()
    assert 0 < near < far / 3  # the third step shows another person
    assert np.isfinite(losses).all()
    trees, _ = weights.load(DEFAULT_WEIGHTS, "portrait model")
    learnt = rehearsal.variables(state)
    assert jax.tree.structure(learnt) == jax.tree.structure(trees)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), learnt["params"], trees["params"])
    assert all(max(jax.tree.leaves(moved[part])) > 0 for part in moved)  # image-to-plane learns as well


def test_workers_draw_what_one_thread_draws(people):
    from data_pipelines import puppets

    def some(workers):
        rows = puppets.Rows(puppets.Puppets(7, 256, 192), 4, 2, str(people), 6, 3, ("source", "target", "weight"))
        return list(zip(range(4), puppets.batches(rows, workers), strict=False))

    for (_, a), (_, b) in zip(some(0), some(2), strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
