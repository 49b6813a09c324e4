"""The dual discriminator: golden cases with first and second derivatives, groups, cameras, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import drawn, quick_jit

from r3p.errors import InputError
from r3p.models.discriminator import (
    CAMERA_SPREAD,
    Discriminator,
    append_deviation,
    blur_camera,
    gradient_penalty,
)

TINY = {"widths": (4, 6, 8), "mapping_depth": 2, "mapping_width": 8}


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def tiny_batch(b=2):
    rng = np.random.default_rng(0)
    image, raw = (rng.uniform(-1, 1, (b, side, side, 3)).astype(np.float32) for side in (16, 8))
    camera, noise = rng.standard_normal((2, b, 25), dtype=np.float32)
    return image, raw, camera, noise


def test_penalty_is_the_squared_gradient():
    image, raw, *_ = tiny_batch()
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(image.shape[1:]), rng.standard_normal(raw.shape[1:])

    def linear(image, raw):
        return (jnp.sum(image * a, (1, 2, 3)) + jnp.sum(raw * b, (1, 2, 3)))[:, None]

    np.testing.assert_allclose(gradient_penalty(linear, image, raw), ((a**2).sum() + (b**2).sum()) / 2, rtol=1e-5)


def test_penalty_gradient_agrees_with_differences():
    model = Discriminator(**TINY)
    image, raw, camera, noise = tiny_batch()
    variables = drawn(model, image, raw, camera)

    def penalty(params):
        return gradient_penalty(lambda *pair: model.apply({"params": params}, *pair, camera, noise), image, raw)

    rng = np.random.default_rng(2)
    params = variables["params"]
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape, dtype=np.float32) * np.abs(p).mean(), params)
    value, slope = quick_jit(lambda p: jax.jvp(penalty, (p,), (direction,)))(params)
    step = 1e-3
    along = quick_jit(lambda t: penalty(jax.tree.map(lambda p, d: p + t * d, params, direction)))
    assert value > 0
    np.testing.assert_allclose(slope, (along(step) - along(-step)) / (2 * step), rtol=2e-2)


def test_training_reaches_every_parameter():
    model = Discriminator(**TINY)
    args = tiny_batch()
    variables = drawn(model, *args)
    cotangent = np.array([[1.0], [-2.0]], np.float32)
    grads = quick_jit(jax.grad(lambda v: jnp.sum(model.apply(v, *args) * cotangent)))(variables)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert bool(jnp.isfinite(grad).all()) and jnp.any(grad), jax.tree_util.keystr(path)


def test_penalty_of_a_lone_image_is_finite():
    model = Discriminator(**TINY)
    image, raw, camera, noise = tiny_batch(1)
    variables = drawn(model, image, raw, camera)

    def penalty(variables):
        return gradient_penalty(lambda *pair: model.apply(variables, *pair, camera, noise), image, raw)

    for grad in jax.tree.leaves(quick_jit(jax.grad(penalty))(variables)):
        assert bool(jnp.isfinite(grad).all())


def test_camera_noise_takes_the_spread_of_the_batch():
    _, _, camera, noise = tiny_batch(4)
    np.testing.assert_allclose(blur_camera(camera, noise) - camera, noise * camera.std(0, ddof=1), atol=1e-5)
    np.testing.assert_allclose(blur_camera(camera[:1], noise[:1]) - camera[:1], noise[:1] * CAMERA_SPREAD, atol=1e-6)


def test_half_precision_ends_in_float32():
    model = Discriminator(**TINY, dtype=jnp.bfloat16)
    args = tiny_batch()
    variables = drawn(model, *args)
    logits = quick_jit(model.apply)(variables, *args)
    assert logits.dtype == jnp.float32
    full = quick_jit(model.clone(dtype=jnp.float32).apply)(variables, *args)
    np.testing.assert_allclose(logits, full, atol=0.05 * float(jnp.abs(full).max()))


def test_refusals():
    model = Discriminator(**TINY)
    _, raw, camera, _ = tiny_batch()
    with pytest.raises(InputError, match="16x16 images, got 8x8"):
        drawn(model, raw, raw, camera)
    with pytest.raises(InputError, match="batch of 3"):
        append_deviation(jnp.zeros((3, 4, 4, 2)))
