"""The training loop on several processes and devices of this machine, connected as machines of a cluster would be."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from launch import commands
from launch.local import environment, free_port
from r3p.checkpoint import Checkpoints
from r3p.errors import STOPPED
from r3p.train import load_config, load_stage

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "tests" / "toys" / "config.py")
SETTINGS = ("schedule_steps=20", "batch_size=16")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("compiled"))


# Programs that run for a moment need not be optimised.
QUICK = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def environments(processes, devices, cache):
    env = environment(devices, None)
    env["XLA_FLAGS"] += QUICK
    env["JAX_COMPILATION_CACHE_DIR"], env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = cache, "0"
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return [env] * processes


def arguments(workdir, overrides, config=CONFIG):
    return ["--config", config, "--workdir", str(workdir), *(x for o in overrides for x in ("--set", o))]


# By default nobody is dead because this machine does something else for minutes.
def start(processes, devices, workdir, *overrides, cache, config=CONFIG, heartbeat=1800):
    lines = commands.local(processes, free_port(), arguments(workdir, [*SETTINGS, *overrides], config))
    for line in lines:
        line[2:2] = ["--heartbeat", str(heartbeat)]
    return [
        subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        for line, env in zip(lines, environments(processes, devices, cache), strict=True)
    ]


def finish(processes):
    """Exit statuses, and what was printed."""
    try:
        printed = [p.communicate(timeout=3600)[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    return [p.returncode for p in processes], printed


def run(*args, **kwargs):
    codes, printed = finish(start(*args, **kwargs))
    assert not any(codes), printed
    return printed


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def state(workdir, *overrides, config=CONFIG):
    """The newest checkpoint, as arrays of NumPy."""
    config = load_config(config, [*SETTINGS, *overrides])
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.eval_shape(load_stage(config).init, jax.random.key(0, impl="rbg"))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
    with closing(Checkpoints(workdir / "checkpoints", every=1, keep=9)) as checkpoints:
        return jax.tree.map(np.asarray, checkpoints.restore(like))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_devices_and_processes_change_nothing(tmp_path, cache):
    runs = {
        "1 x 1": (1, 1),
        "1 x 8": (1, 8),
        "1 x 8, fsdp": (1, 8, "mesh.fsdp=8"),
        "2 x 4": (2, 4),
        "2 x 4, fsdp": (2, 4, "mesh.fsdp=8"),
        "4 x 2": (4, 2, "mesh.fsdp=2"),
    }
    found = {}
    for name, (processes, devices, *overrides) in runs.items():
        folder = tmp_path / name
        run(processes, devices, folder, "steps=20", "checkpoint_every=20", f"record={folder}", *overrides, cache=cache)
        found[name] = losses(folder)
    for name, values in found.items():
        assert list(values) == list(range(1, 21))
        apart = max(abs(values[k] - found["1 x 1"][k]) for k in values)
        print(f"{name}: largest difference in loss {apart:.1e}")
        assert apart < 1e-5
    whole = [line.split() for line in (tmp_path / "1 x 1_0_of_1").read_text().splitlines()]
    for name, (processes, *_) in runs.items():
        parts = [(tmp_path / f"{name}_{k}_of_{processes}").read_text().splitlines() for k in range(processes)]
        for row, *shares in zip(whole, *parts, strict=False):
            # disjoint and covering: end to end, the processes' shares are the batch of one process
            assert [n for share in shares for n in share.split()[1:]] == row[1:]


def test_a_real_stage_is_as_little_changed(tmp_path, cache):
    from test_speech import write_speech

    data = write_speech(tmp_path / "speech")
    small = {"width": 8, "condition_width": 8, "encoder_layers": 1, "decoder_layers": 1}
    config = str(ROOT / "configs" / "audio2motion.py:small_smoke")
    small |= {"flow_width": 8, "flow_steps": 1, "flow_layers": 1, "latent": 4}
    overrides = [
        f"data.path={data}", "data.crop=16", "batch_size=8", "steps=20", "schedule_steps=20", "checkpoint_every=20",
        "log_every=1", "fsdp_least=16", *(f"model.{name}={value}" for name, value in small.items()),
    ]  # fmt: skip
    found = {}
    for name, (processes, devices, fsdp) in {"1 x 1": (1, 1, 1), "1 x 8": (1, 8, 4), "2 x 4": (2, 4, 8)}.items():
        folder = tmp_path / name
        chosen = [*overrides, f"mesh.fsdp={fsdp}"]
        run(processes, devices, folder, *chosen, cache=cache, config=config)
        found[name] = losses(folder)
    for name, values in found.items():
        apart = max(abs(values[k] / found["1 x 1"][k] - 1) for k in range(1, 21))
        print(f"{name}: largest relative difference in loss {apart:.1e}")
        assert apart < 1e-5


def test_rays_are_shared_among_the_devices_of_an_image(cache):
    program = """
import jax, jax.numpy as jnp, numpy as np
from r3p import camera, render, sharding
pose = jnp.zeros((2, 3))
origins, directions = camera.rays(camera.from_pose(pose, pose), 16)
planes = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 4))
weights = jax.random.normal(jax.random.key(1), (4, 65))

def decoder(x):
    y = jnp.tanh(x @ weights)
    return y[..., :64], y[..., 64:]

def cost(mesh):
    placed = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    with sharding.using(mesh):
        def loss(planes):
            return (render.render(planes, decoder, origins, directions, coarse=8, fine=8, chunk=64).feature ** 2).sum()
        compiled = jax.jit(jax.value_and_grad(loss)).lower(jax.device_put(planes, placed)).compile()
    value, grad = compiled(jax.device_put(planes, placed))
    return float(value), np.asarray(grad), compiled.cost_analysis()["flops"]

value, grad, operations = cost(sharding.make_mesh({"data": 1, "spatial": -1}))
print("RESULT", value, np.abs(grad).sum(), operations)
"""
    results = {}
    for devices in (1, 4):
        env = environments(1, devices, cache)[0]
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        results[devices] = [float(x) for x in done.stdout.split("RESULT")[1].split()]
    np.testing.assert_allclose(results[4][:2], results[1][:2], rtol=1e-5)
    assert results[4][2] < 0.4 * results[1][2]  # operations of each device


def test_two_and_two_steps_equal_four_bit_for_bit_on_two_processes(tmp_path, cache):
    for overrides in ((), ("mesh.fsdp=4",)):
        folder = tmp_path / str(len(overrides))
        run(2, 2, folder / "straight", "steps=4", *overrides, cache=cache)
        run(2, 2, folder / "again", "steps=2", *overrides, cache=cache)
        assert "resumed from step 2" in run(2, 2, folder / "again", "steps=4", *overrides, cache=cache)[0]
        assert_same(state(folder / "straight"), state(folder / "again"))
        assert losses(folder / "straight") == losses(folder / "again")


def test_saved_on_two_processes_restores_on_one_and_on_four(tmp_path, cache):
    run(2, 2, tmp_path / "two", "steps=4", "mesh.fsdp=4", cache=cache)
    run(2, 2, tmp_path / "straight", "steps=8", "mesh.fsdp=4", cache=cache)
    for name, processes, devices, mesh in (("one", 1, 1, 1), ("four", 4, 2, 2)):
        shutil.copytree(tmp_path / "two", tmp_path / name)
        printed = run(processes, devices, tmp_path / name, "steps=8", f"mesh.fsdp={mesh}", cache=cache)
        assert "resumed from step 4" in printed[0]
        expected = losses(tmp_path / "straight")
        assert all(abs(value - expected[k]) < 1e-5 for k, value in losses(tmp_path / name).items())


def wait_for_step(workdir, step, processes=()):
    deadline = time.monotonic() + 600
    path = workdir / "metrics.jsonl"
    while not path.exists() or max(losses(workdir), default=0) < step:
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.1)


# Nothing but the end writes a checkpoint of these.
ENDLESS = ("steps=2000", "checkpoint_every=1000", "preview_every=1000", "evaluate_every=1000", "pause=0.05")


def launched(processes, restarts, workdir, overrides, cache):
    """`python -m launch local`, and a function that tells the processes under it."""
    line = [sys.executable, "-m", "launch", "local", "--processes", str(processes), "--devices", "1"]
    line += ["--restarts", str(restarts), "--", *arguments(workdir, [*SETTINGS, *overrides])]
    workdir.mkdir(exist_ok=True)
    (workdir / "metrics.jsonl").touch()
    env = environments(1, 1, cache)[0]
    job = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    children_file = Path(f"/proc/{job.pid}/task/{job.pid}/children")

    def children():
        return [int(pid) for pid in children_file.read_text().split()] if job.poll() is None else []

    return job, children


def test_sigterm_to_one_process_ends_both_with_a_checkpoint(tmp_path, cache):
    processes = start(2, 2, tmp_path, *ENDLESS, cache=cache)
    wait_for_step(tmp_path, 2, processes)
    asked = time.monotonic()
    processes[1].send_signal(signal.SIGTERM)
    codes, printed = finish(processes)
    seconds = time.monotonic() - asked
    assert codes == [STOPPED, STOPPED], printed
    stopped = [int(re.search(r"stopped at step (\d+)", text)[1]) for text in printed]
    print(f"checkpoint and end after {seconds:.1f} s")
    assert stopped[0] == stopped[1] == int(state(tmp_path).step) and seconds < 60
    run(1, 1, tmp_path, f"steps={stopped[0] + 2}", cache=cache)
    assert max(losses(tmp_path)) == stopped[0] + 2


def test_sigterm_to_the_job_ends_in_a_checkpoint_that_it_goes_on_from(tmp_path, cache):
    job, _ = launched(2, 3, tmp_path, ENDLESS, cache)
    wait_for_step(tmp_path, 2, [job])
    asked = time.monotonic()
    job.send_signal(signal.SIGTERM)
    printed = job.communicate(timeout=600)[0]
    seconds = time.monotonic() - asked
    assert job.returncode == STOPPED and "restart" not in printed, printed
    stopped = [int(step) for step in re.findall(r"stopped at step (\d+)", printed)]
    print(f"checkpoint and end after {seconds:.1f} s")
    assert len(stopped) == 2 and stopped[0] == stopped[1] == int(state(tmp_path).step) and seconds < 60
    job, _ = launched(2, 0, tmp_path, (*ENDLESS[1:], f"steps={stopped[0] + 2}"), cache)
    printed = job.communicate(timeout=600)[0]
    assert job.returncode == 0 and f"resumed from step {stopped[0]}" in printed, printed
    run(2, 1, tmp_path / "straight", *ENDLESS[1:], "pause=0", f"steps={stopped[0] + 2}", cache=cache)
    assert_same(state(tmp_path), state(tmp_path / "straight"))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(victim, tmp_path, cache):
    """Without a launcher that looks after them: at the next step, or when a heartbeat is missed while both save."""
    processes = start(2, 1, tmp_path, *ENDLESS, "checkpoint_every=2", cache=cache, heartbeat=100)
    wait_for_step(tmp_path, 5, processes)
    processes[victim].kill()
    killed = time.monotonic()
    codes, printed = finish(processes)
    seconds = time.monotonic() - killed
    print(f"the other ended after {seconds:.1f} s with status {codes[1 - victim]}")
    assert seconds < 300
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] not in (0, 2, STOPPED), printed
    assert int(state(tmp_path).step) >= 2  # what was saved is whole


@pytest.mark.parametrize("bad", [0, 1])
def test_a_batch_of_one_process_that_is_not_finite_ends_both(bad, tmp_path, cache):
    settings = ("bad_step=2", f"bad_process={bad}", "checkpoint_every=1", "steps=8")
    codes, printed = finish(start(2, 2, tmp_path, *settings, cache=cache))
    assert codes == [2, 2], printed
    assert all("step 3 made error, loss, parameters not finite" in text for text in printed), printed
    assert all("checkpoint 2 is the last good one" in text for text in printed)
    assert int(state(tmp_path).step) == 2
    for process, text in enumerate(printed):  # each has kept its share of the batch, and names it
        path = tmp_path / f"bad_batch_0000003_process_{process}.npz"
        with np.load(path) as batch:
            assert np.isnan(batch["truth"]).any() == (process == bad)
            assert f"(its batch: examples {', '.join(map(str, batch['example']))}, in {path})" in text


def test_the_spatial_axis_has_to_fit_a_process(tmp_path, cache):
    codes, printed = finish(start(2, 2, tmp_path, "mesh.data=1", "mesh.spatial=4", cache=cache))
    assert codes == [2, 2] and "let spatial divide the devices of a process" in printed[0]


def kill_now_and_then(workdir, times, children, done):
    """kill -9 one of `children()` at a random moment, `times` times; notes the checkpoint there was."""
    rng, seen = random.Random(0), []
    for _ in range(times):
        reached = max(losses(workdir), default=0) if (workdir / "metrics.jsonl").exists() else 0
        while not children() or max(losses(workdir), default=0) <= reached:  # it runs, and has got further
            if done.is_set():
                return seen
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1.5))
        victims = children()
        if not victims:
            continue
        whole = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
        os.kill(rng.choice(victims), signal.SIGKILL)
        seen.append(max(whole, default=0))
    return seen


@pytest.mark.parametrize(("processes", "times"), [(1, 10), (2, 2)])
def test_kill_at_random_steps_loses_no_checkpoint(processes, times, tmp_path, cache):
    settings = ["steps=200", "checkpoint_every=5", "preview_every=1000", "evaluate_every=1000", "pause=0.1"]
    workdir = tmp_path / "run"
    job, children = launched(processes, times, workdir, settings, cache)
    done, seen = threading.Event(), []
    killer = threading.Thread(target=lambda: seen.extend(kill_now_and_then(workdir, times, children, done)))
    killer.start()
    printed = job.communicate(timeout=3600)[0]
    done.set()
    killer.join()
    assert job.returncode == 0, printed
    assert len(seen) == times, printed
    resumed = [int(step) for step in re.findall(r"resumed from step (\d+)", printed)]
    # A run goes on from what was whole when it was killed, or what became whole meanwhile; before the first checkpoint
    # it begins again.
    before = [step for step in seen if step]
    assert len(resumed) >= len(before) and resumed == sorted(resumed)
    assert all(after >= step for after, step in zip(resumed[-len(before) :], before, strict=True))
    # nothing was lost or done twice: the run ends as one that nobody killed
    assert int(state(workdir).step) == 200
    run(processes, 1, tmp_path / "straight", *settings, "pause=0", cache=cache)
    assert_same(state(workdir), state(tmp_path / "straight"))
    assert losses(workdir) == losses(tmp_path / "straight")
