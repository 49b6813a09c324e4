"""Each stage's smoke run, as a user starts it: it learns about people held out, and goes on where it stopped.

Minutes each, hence slow.
"""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util
from test_processes import ROOT, assert_same, cache, losses, run, state  # noqa: F401  (a fixture among them)

from data_pipelines import speech_people
from r3p import export, train, weights
from r3p.errors import FINISHED
from r3p.train import load_config

pytestmark = pytest.mark.slow

IMAGES = ("img2plane", "motion2plane", "torso")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """96 utterances of 12 people, and of two others with another voice who are held out."""
    folder = tmp_path_factory.mktemp("people")
    speech_people.make(folder, 96, 12, 1)
    return folder


def trained(name, workdir, *overrides):
    """A whole smoke run; what it wrote about held-out batches: `[(step, {metric: value})]`."""
    chosen = [word for item in overrides for word in ("--set", item)]
    assert train.main(["--config", f"configs/{name}.py:smoke", "--workdir", str(workdir), *chosen]) == FINISHED
    config, last = export.read_run(workdir)
    assert int(last.step) == config.steps
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((last.params, last.model_state, last.average)))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    held_out = [
        (row["step"], {k.removeprefix("held_out/"): v for k, v in row.items()})
        for row in rows
        if "held_out/loss" in row
    ]
    assert [step for step, _ in held_out] == list(range(0, config.steps + 1, config.evaluate_every))
    print(name, *(f"\n  step {step}: {values}" for step, values in held_out))
    return held_out


def fell(held_out, name, factor):
    (_, before), (_, after) = held_out[0], held_out[-1]
    assert after[name] < factor * before[name], f"{name}: {before[name]:.4f} before, {after[name]:.4f} after"


@pytest.mark.parametrize("name", IMAGES)
def test_a_smoke_run_of_images_learns(name, tmp_path):
    held_out = trained(name, tmp_path)
    fell(held_out, "loss", 0.9)
    fell(held_out, "mv_l1", 0.75)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = (row for row in rows if "loss" in row)
    assert first["mv_adv"] == 0 < last["mv_adv"] and last["d_real"] > 0  # the adversary played
    assert len(list((tmp_path / "previews").iterdir())) == 2


def test_the_smoke_runs_of_speech_learn(people, tmp_path):
    """SyncNet, its weight file, audio-to-motion with it: a voice and people that were never heard."""
    fell(trained("syncnet", tmp_path / "sync", f"data.folder={people}"), "loss", 0.9)
    assert export.export_portrait(tmp_path / "sync", tmp_path / "sync.npz")["steps"] == 300
    held_out = trained("audio2motion", tmp_path / "motion", f"data.folder={people}", f"syncnet={tmp_path / 'sync.npz'}")
    fell(held_out, "loss", 0.7)
    fell(held_out, "prior_landmarks", 0.95)
    export.export_portrait(tmp_path / "motion", tmp_path / "motion.npz")
    trees, meta = weights.load(tmp_path / "motion.npz", "audio2motion")
    assert set(trees) == {"params", "batch_stats"} and meta["provenance"]["stage"] == "audio2motion_paper"


# ------------------------------------------------------------------------------------------------ going on
# As short as it gets: the same path. `pace` makes these few steps reach the adversary's start.
SMALLER = {
    "model.coarse": 4, "model.fine": 2, "lip_size": 16, "density_points": 8, "pace": 20_000, "data.lengths": [96],
    "held_out_batches": 0, "preview_every": 0, "log_every": 1, "checkpoint_every": 2, "steps": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def talkers(tmp_path_factory):
    """The fewest utterances that there may be."""
    folder = tmp_path_factory.mktemp("talkers")
    speech_people.make(folder, 12, 3, 1)
    return folder


@pytest.mark.parametrize("name", [*IMAGES, "syncnet", "audio2motion"])
def test_two_and_two_steps_of_a_stage_equal_four_bit_for_bit(name, talkers, tmp_path, cache):  # noqa: F811
    """On one process, and on two, which make the same of a batch but for rounding."""
    path = str(ROOT / "configs" / f"{name}.py:smoke")
    known = traverse_util.flatten_dict(load_config(path, []).to_dict(), sep=".")
    overrides = [f"{key}={value}" for key, value in SMALLER.items() if key in known]
    overrides += [f"batch_size={known['batch_size']}", "schedule_steps=0"]
    if name not in IMAGES:
        overrides.append(f"data.folder={talkers}")
    if name == "audio2motion":
        overrides.append("loss.sync=0")
    found = {}
    for processes in (1, 2):
        straight, again = tmp_path / f"straight {processes}", tmp_path / f"again {processes}"
        run(processes, 1, straight, *overrides, cache=cache, config=path)
        shutil.copytree(straight / "checkpoints" / "2", again / "checkpoints" / "2")  # as after two steps
        assert "resumed from step 2" in run(processes, 1, again, *overrides, cache=cache, config=path)[0]
        assert_same(*(state(folder, *overrides, config=path) for folder in (straight, again)))
        found[processes] = losses(straight)
        assert losses(again) == {step: found[processes][step] for step in (3, 4)}
    apart = [abs(found[2][step] / found[1][step] - 1) for step in range(1, 5)]
    print(name, "relative differences between one process and two:", *(f"{x:.1e}" for x in apart))
    assert apart[0] < 1e-5
