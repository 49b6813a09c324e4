"""The refiner of tri-grids: its golden case and what holds for every size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import drawn, quick_jit

from r3p.errors import InputError
from r3p.models.planes import GridRefiner


def grid(b=2, d=3, size=6, c=8):
    return np.random.default_rng(0).standard_normal((b, 3, d, size, size, c)).astype(np.float32)


@pytest.mark.parametrize("blocks", [1, 2])
def test_sizes(blocks):
    shape = jax.ShapeDtypeStruct((1, 3, 3, 256, 256, 32), jnp.float32)
    wanted = jax.eval_shape(GridRefiner(blocks=blocks).init, jax.random.key(0), shape)
    assert sum(v.size for v in jax.tree.leaves(wanted)) == blocks * 55_489


def test_convolutions_are_three_dimensional_ones():
    x = grid(c=4)
    network = GridRefiner()
    variables = drawn(network, x)
    block = variables["params"]["block0"]
    y = x.reshape(-1, *x.shape[2:])
    for i in range(2):
        groups = y.astype(np.float64).reshape(y.shape[0], -1, 4, 1)
        mean, var = groups.mean((1, 3)), groups.var((1, 3))
        y = (y - mean[:, None, None, None]) / np.sqrt(var + 1e-5)[:, None, None, None]
        y = np.maximum(y * block[f"norm{i}"]["scale"] + block[f"norm{i}"]["bias"], 0).astype(np.float32)
        y = np.pad(y, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)), mode="edge")
        kernel = block[f"kernel{i}"]
        y = jax.lax.conv_general_dilated(y, kernel, (1, 1, 1), "VALID", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))
        y = np.asarray(y) + block[f"bias{i}"]
    want = x + block["scale"] * y.reshape(x.shape)
    np.testing.assert_allclose(quick_jit(network.apply)(variables, x), want, rtol=1e-4, atol=1e-4)


def test_starts_close_to_its_input_and_learns():
    x, network = grid(), GridRefiner(blocks=2)
    variables = drawn(network, x)
    for block in variables["params"].values():
        block["scale"] = np.full(1, 0.01, np.float32)
    loss = quick_jit(jax.value_and_grad(lambda v, x: jnp.mean((network.apply(v, x) - x) ** 2)))
    value, grads = loss(variables, x)
    assert 0 < value < 0.01
    assert all(jnp.isfinite(g).all() and jnp.any(g) for g in jax.tree.leaves(grads))
    start = jax.jit(network.init)(jax.random.key(0), x)
    assert start["params"]["block1"]["scale"].tolist() == [np.float32(0.01)]


def test_planes_without_depth_are_refused():
    with pytest.raises(InputError, match="depth above 1"):
        jax.eval_shape(GridRefiner().init, jax.random.key(0), grid()[:, :, 0])
