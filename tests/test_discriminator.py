"""The dual discriminator: golden cases with first and second derivatives, groups, cameras, refusals."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from official import captured, channels_first, channels_last, drawn, leaf, quick_jit

from r3p import convert
from r3p.errors import InputError
from r3p.models.discriminator import (
    CAMERA_SPREAD,
    Discriminator,
    append_deviation,
    blur_camera,
    gradient_penalty,
)
from r3p.names.discriminator import RULES

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


@pytest.mark.parametrize("case", ["disc_b1", pytest.param("disc", marks=pytest.mark.slow)])
def test_golden(case):
    meta, inputs, recorded = parity.load_case(case)
    variables = convert.to_variables(parity.official_weights("disc"), RULES)
    args = channels_last(inputs["image"]), channels_last(inputs["image_raw"]), inputs["camera"], inputs["noise"]
    run = jax.jit(lambda v, *a: Discriminator().apply(v, *a, capture_intermediates=True))
    logits, state = run(variables, *args)
    values = {f"b{side}.0": channels_first(captured(state, f"block{side}")) for side in (512, 128, 32, 8)}
    values |= {"embed": captured(state, "mapping/embed"), "mapping": captured(state, "mapping"), "logits": logits}
    assert values.keys() == {n for n in recorded if "grad" not in n and n != "r1"}
    for name, value in values.items():
        parity.check(case, meta, recorded, name, value)


@pytest.mark.slow
def test_gradients_match_official():
    case = "disc"
    meta, inputs, recorded = parity.load_case(case)
    variables = convert.to_variables(parity.official_weights(case), RULES)
    images = channels_last(inputs["image"]), channels_last(inputs["image_raw"])
    cotangent = parity.cotangent(case, "logits", (2, 1))

    def total(variables, *images):
        return jnp.sum(Discriminator().apply(variables, *images, inputs["camera"], inputs["noise"]) * cotangent)

    value, (grads, *inner) = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(variables, *images)
    parity.check(case, meta, recorded, "grad_total", value[None])
    for name, grad in zip(("image", "image_raw"), inner, strict=True):
        parity.check(case, meta, recorded, f"grad/{name}", channels_first(grad))
    for name in (n.removeprefix("grad/") for n in recorded if n.startswith("grad/") and "weight" in n):
        parity.check(case, meta, recorded, f"grad/{name}", leaf(grads, RULES, name))


@pytest.mark.slow
def test_penalty_and_its_gradients_match_official():
    case = "disc"
    meta, inputs, recorded = parity.load_case(case)
    variables = convert.to_variables(parity.official_weights(case), RULES)
    images = channels_last(inputs["image"]), channels_last(inputs["image_raw"])

    def penalty(variables, *images):
        return gradient_penalty(
            lambda *pair: Discriminator().apply(variables, *pair, inputs["camera"], inputs["noise"]), *images
        )

    value, grads = jax.jit(jax.value_and_grad(penalty))(variables, *images)
    parity.check(case, meta, recorded, "r1", value[None])
    for name in (n.removeprefix("r1_grad/") for n in recorded if n.startswith("r1_grad/")):
        parity.check(case, meta, recorded, f"r1_grad/{name}", leaf(grads, RULES, name))


def test_released_names_and_shapes_fit():
    manifest = json.loads((parity.CASES.parent / "manifests" / "disc.json").read_text())
    state = {name: np.broadcast_to(np.float32(0), spec["shape"]) for name, spec in manifest.items()}
    shapes = ((2, 512, 512, 3), (2, 128, 128, 3), (2, 25))
    wanted = jax.eval_shape(
        Discriminator().init, jax.random.key(0), *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
    )
    convert.check_against(convert.to_variables(state, RULES), wanted)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(wanted)) == 31_359_744


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
