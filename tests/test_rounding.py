"""What devices change of a stage whose training magnifies rounding: nothing, where there is next to no rounding."""

import os
import subprocess
import sys

import pytest
from test_processes import ROOT, cache, environments  # noqa: F401  (a fixture among them)

from data_pipelines import speech_people

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
jnp.float32 = jnp.float64  # for all that is imported from here on
from r3p import sharding
from r3p.stages import syncnet
from r3p.train import load_config

def wide(x):
    return np.asarray(x, np.float64) if x.dtype == np.float32 else x

config = load_config("configs/syncnet.py:smoke", [f"data.folder={sys.argv[1]}", "held_out_batches=0"])
stage = syncnet.make(config)
start = jax.tree.map(wide, stage.init(jax.random.key(0, impl="rbg")))
batches = [jax.tree.map(wide, batch) for batch, _ in zip(stage.batches(0), range(20))]
losses = {}
for devices in (1, 8):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]).reshape(devices, 1, 1), ("data", "fsdp", "spatial"))
    whole = sharding.replicated(mesh)
    with sharding.using(mesh):
        step = jax.jit(lambda s, b: stage.step(s, b, jax.random.key(1)), out_shardings=(whole, whole))
        state, losses[devices] = jax.device_put(start, whole), []
        for batch in batches:
            state, metrics = step(state, sharding.put_batch(batch, mesh))
            losses[devices].append(float(metrics["loss"]))
kinds = {x.dtype for x in jax.tree.leaves(state.params)}
assert kinds == {jnp.dtype("float64")}, kinds
print("RESULT", max(abs(a / b - 1) for a, b in zip(losses[1], losses[8])))
"""


def test_syncnet_is_the_same_on_one_device_and_on_eight(tmp_path, cache):  # noqa: F811
    """Over 20 steps, in double precision.

    In float32 a step's loss differs by 2e-7 and its gradient by 4e-6 as long as both start from the same parameters.
    But one of 700,000 activations, so near to zero that rounding decides on which side it lies, changes a gradient by
    2e-2 and with it all later steps; that happens within the first few.
    """
    speech_people.make(tmp_path, 12, 3, 1)
    env = environments(1, 8, cache)[0] | {"JAX_ENABLE_X64": "1"}
    line = [sys.executable, "-c", PROGRAM, os.fspath(tmp_path)]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    apart = float(done.stdout.split("RESULT")[1])
    print(f"largest relative difference in loss {apart:.1e}")
    assert apart < 1e-9
