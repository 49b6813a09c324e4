"""The training loop on a toy stage, in one process."""

import json
import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import stage as toy

from data_pipelines.ahead import read_ahead
from r3p import metrics, train
from r3p.checkpoint import Checkpoints
from r3p.errors import STOPPED, InputError
from r3p.stages import Stage
from r3p.state import gradients

CONFIG = "tests/toys/config.py"


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """The runs share what they compile."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)


def run(workdir, *overrides):
    config = train.load_config(CONFIG, ["schedule_steps=8", *overrides])
    return train.train_and_evaluate(config, workdir)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
    return {row["step"]: row["loss"] for row in rows(workdir) if "loss" in row}


def kept(workdir):
    with closing(Checkpoints(workdir / "checkpoints", every=1, keep=9)) as checkpoints:
        return checkpoints.steps()


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, a), jax.tree.map(np.asarray, b))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    state = run(folder, f"record={folder}/read")
    return folder, jax.tree.map(np.asarray, state)


def test_a_run_writes_what_it_says(straight):
    folder, state = straight
    assert int(state.step) == 4
    steps = [row for row in rows(folder) if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        assert {"error", "examples_per_s", "step_s", "input_wait"} <= set(row) and "mfu" not in row  # a CPU has no peak
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert [row["step"] for row in rows(folder) if "held_out/error" in row] == [0, 4]
    assert sorted(p.name for p in (folder / "previews").iterdir()) == ["image_0000004.png", "shade_0000004.png"]
    events = list((folder / "tensorboard").iterdir())
    assert events and events[0].stat().st_size > 500


def test_two_and_two_steps_equal_four_bit_for_bit(straight, tmp_path):
    folder, state = straight
    run(tmp_path, "steps=2", f"record={tmp_path}/read")
    again = run(tmp_path, f"record={tmp_path}/read")
    assert_same(state, again)  # parameters, moments, averages, running statistics; random numbers are the step's
    assert losses(folder) == losses(tmp_path)
    first, second = ((f / "read_0_of_1").read_text().splitlines() for f in (folder, tmp_path))
    assert first[:4] == list(dict.fromkeys(second))[:4]


def test_batches_cover_the_data_once_an_epoch(straight):
    read = (straight[0] / "read_0_of_1").read_text().splitlines()
    numbers = [int(n) for line in read[:6] for n in line.split()[1:]]
    assert sorted(numbers) == list(range(toy.EXAMPLES))


def test_a_batch_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(
        InputError, match=r"step 4 made error, loss, parameters not finite \(its batch: examples \d+, "
    ) as e:
        run(tmp_path, "bad_step=3", "checkpoint_every=1", "steps=8")
    assert "checkpoint 3 is the last good one" in str(e.value)
    with np.load(tmp_path / "bad_batch_0000004_process_0.npz") as batch:
        assert np.isnan(batch["truth"]).any() and f"examples {batch['example'][0]}, " in str(e.value)
    assert kept(tmp_path) == [2, 3]


def test_a_gradient_that_is_not_finite_is_laid_to_its_own_step(tmp_path):
    with pytest.raises(InputError, match="step 2 made parameters not finite"):
        run(tmp_path, "bad_gradient=1", "checkpoint_every=1")
    assert kept(tmp_path) == [1]


def test_checkpoints_kept(tmp_path):
    run(tmp_path, "steps=7", "checkpoint_every=1", "checkpoints_kept=2", "checkpoints_kept_every=3")
    assert kept(tmp_path) == [3, 6, 7]


def test_a_checkpoint_of_another_model_is_refused(straight):
    with pytest.raises(InputError, match=r"checkpoint 4 does not fit .*has .* \[.*16.*\], the config has .*8"):
        run(straight[0], "width=8", "steps=5")


def test_sigterm_ends_in_a_checkpoint(tmp_path):
    started = []

    def ask():
        while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
            time.sleep(0.05)
        started.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    arguments = ["--config", CONFIG, "--workdir", str(tmp_path), "--set", "steps=100000", "--set", "pause=0.05"]
    assert train.main([*arguments, "--set", "checkpoint_every=100000", "--set", "preview_every=100000"]) == STOPPED
    thread.join()
    assert time.monotonic() - started[0] < 20  # much less on a machine that does nothing else
    steps = kept(tmp_path)
    assert steps and steps[0] >= max(losses(tmp_path))


def test_parts_of_a_batch_and_rematerialisation_give_the_gradient():
    rng = np.random.default_rng(0)
    params, batch = {"w": jnp.asarray(rng.normal(size=(3, 2)))}, {"x": jnp.asarray(rng.normal(size=(12, 3)))}

    def loss(params, batch, _):
        y = jnp.tanh(batch["x"] @ params["w"])
        return (y**2).mean(), {"mean": y.mean(), "rows": jnp.int32(len(y))}

    (total, aux), grad = gradients(loss, params, batch, jax.random.key(0))
    for remat in ("none", "products"):
        (same, parts), again = gradients(loss, params, batch, jax.random.key(0), accumulate=3, remat=remat)
        np.testing.assert_allclose(same, total, rtol=1e-6)
        np.testing.assert_allclose(again["w"], grad["w"], rtol=1e-5)
        np.testing.assert_allclose(parts["mean"], aux["mean"], rtol=1e-5)
        assert (int(parts["rows"]), int(aux["rows"])) == (4, 12)
    with pytest.raises(InputError, match="remat is 'all': choose none or products"):
        gradients(loss, params, batch, jax.random.key(0), remat="all")


def test_half_precision_keeps_its_masters(straight, tmp_path):
    state = run(tmp_path, "dtype=bfloat16", "accumulate=2", "remat=products")
    kinds = {x.dtype for x in jax.tree.leaves((state.params, state.average, state.opt_state))}
    assert kinds == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}  # the latter are the optimiser's counts
    assert losses(tmp_path)[4] == pytest.approx(losses(straight[0])[4], rel=0.3)
    assert losses(tmp_path) != losses(straight[0])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("dtype=float16", "dtype is 'float16': choose float32 or bfloat16"),
        ("random=mt19937", "random is 'mt19937'"),
        ("batch_size=0", "a batch of 0 does not divide"),
        ("accumulate=3", "batch of 16 does not divide among 3"),
        ("mesh.fsdp=3", "does not hold 1 devices"),
        ("checkpoint_every=0", "checkpoint_every is 0"),
        ("stage=toys.nothing", "no training stage 'toys.nothing' on the path"),
        ("stage=nothing", "no training stage 'nothing' in r3p/stages"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_compiles(override, told, tmp_path):
    with pytest.raises(InputError, match=told):
        run(tmp_path, override)
    assert not (tmp_path / "checkpoints").exists() or not any((tmp_path / "checkpoints").iterdir())


def test_options_that_a_stage_does_not_have_are_refused(tmp_path, monkeypatch):
    plain = Stage(None, None, None)
    monkeypatch.setattr(train, "load_stage", lambda config: plain)
    with pytest.raises(InputError, match="computes in float32 only, but dtype is bfloat16"):
        run(tmp_path, "dtype=bfloat16")
    with pytest.raises(InputError, match="accumulate is 2 and remat none"):
        run(tmp_path, "accumulate=2")
    with pytest.raises(TypeError, match="nothing to `evaluate`"):
        Stage(None, None, None, held_out=lambda: [])


def test_batches_may_come_in_several_shapes(tmp_path, monkeypatch, capsys):
    made = train.load_stage

    def load(config):
        stage = made(config)

        def batches(first):
            for step, batch in enumerate(stage.batches(first), first):
                yield batch | {"image": batch["image"][:, : 8 - 4 * (step % 2)]}

        return replace(stage, batches=batches)

    monkeypatch.setattr(train, "load_stage", load)
    run(tmp_path)
    assert capsys.readouterr().out.count("compiling done") == 2 and len(losses(tmp_path)) == 4


def test_utilisation_where_the_peak_is_known(monkeypatch):
    monkeypatch.setattr(metrics.flops, "peak", lambda: 1e9)
    meter = metrics.Meter(4, 2)
    meter.add({"loss": 1.0}, 3e6)
    meter.add({"loss": 2.0}, 5e6)
    row = meter.row()
    assert row["loss"] == 1.5 and row["mfu"] == pytest.approx(8e6 / (2 * row["step_s"]) / 2e9)


def test_an_address_is_no_folder(capsys):
    assert train.main(["--config", CONFIG, "--workdir", "gs://bucket/run"]) == 2
    assert "gs://bucket/run is an address" in capsys.readouterr().err


def test_reading_ahead_keeps_order_and_errors():
    def items():
        yield from range(5)
        raise InputError("no more")

    read, found = read_ahead(items(), 3), []
    with pytest.raises(InputError, match="no more"):
        for item in read:
            found.append(item)
    assert found == list(range(5))
    closed = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    early = read_ahead(endless(), 2)
    next(early)
    early.close()
    assert closed == [True]
