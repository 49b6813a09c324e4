"""Perceptual loss: golden case of the official networks, its formula and its gradients on small ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import drawn, quick_jit

from r3p.errors import InputError
from r3p.models.perceptual import FACES, VGG, VGG16, PerceptualLoss
from r3p.parity.layouts import captured

SMALL = dict(widths=(3, 4, 4, 5, 5))
TINY = PerceptualLoss(size=128, vgg19_fields=SMALL, vggface_fields=SMALL)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def images(size, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (2, 1, size, size, 3)).astype(np.float32)


def test_whole_networks_are_the_published_ones():
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    for convs, count in (((2, 2, 4, 4, 4), 20_024_384), ((2, 2, 3, 3, 3), 14_714_688)):
        shapes = jax.eval_shape(VGG(convs).init, jax.random.key(0), image)
        assert sum(v.size for v in jax.tree.leaves(shapes)) == count


def test_formula():
    """Every term by hand, from the networks' own activations."""
    a, b = images(128)
    variables = drawn(TINY, a, b)
    got, state = quick_jit(functools.partial(TINY.apply, capture_intermediates=True))(variables, a, b)
    seen = state["intermediates"]
    weights = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
    assert len(seen["vgg19"]["__call__"]) == 8 and len(seen["vggface"]["__call__"]) == 2

    def terms(pair):
        return [
            np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).mean() for x, y in zip(*pair, strict=True)
        ]

    pairs = [terms(seen["vgg19"]["__call__"][i : i + 2]) for i in range(0, 8, 2)]
    want = np.dot(weights, pairs[0]) + sum(p[-1] for p in pairs[1:])
    want += np.dot(weights, terms(seen["vggface"]["__call__"])) / 255
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert [x.shape for x in captured(state, "vggface")] == [
        (1, 128 // 2**i, 128 // 2**i, w) for i, w in enumerate(SMALL["widths"])
    ]


def test_is_zero_for_equal_images_and_leaves_the_target_alone():
    a, b = images(64, seed=1)
    variables = drawn(TINY, a, b)
    run = quick_jit(jax.value_and_grad(TINY.apply, argnums=(1, 2)))
    value, (to_prediction, to_target) = run(variables, a, b)
    assert value > 0 and jnp.isfinite(to_prediction).all() and jnp.any(to_prediction)
    assert not jnp.any(to_target)
    assert run(variables, a, a)[0] == 0


def test_networks_want_their_own_colours():
    grey = np.broadcast_to(np.float32(FACES["mean"]), (1, 16, 16, 3))
    network = VGG(VGG16, (4,) * 5, **FACES)
    variables = drawn(network, grey)
    bias = variables["params"]["conv0_0"]["bias"]
    np.testing.assert_allclose(
        network.apply(variables, grey)[0], np.broadcast_to(np.maximum(bias, 0), (1, 16, 16, 4)), atol=1e-5
    )


def test_half_precision_is_close():
    a, b = images(128, seed=2)
    variables = drawn(TINY, a, b)
    full, half = (quick_jit(TINY.clone(dtype=d).apply)(variables, a, b) for d in (jnp.float32, jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, full, rtol=0.05)


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"give two equal shapes \[b, h, w, 3\]"):
        jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.zeros((2, 64, 64, 3)))
