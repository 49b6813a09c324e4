"""Torso model: golden cases, caching, spectral normalisation, regularisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import drawn, quick_jit

from r3p.errors import InputError
from r3p.models import torso

TINY = {
    "appearance_widths": (6, 8),
    "volume_channels": 4,
    "volume_depth": 3,
    "appearance_residuals": 1,
    "motion_widths": (8,),
    "motion_kernel": 3,
    "head_width": 4,
    "head_residuals": 0,
    "generator_widths": (8, 6),
    "generator_residuals": 1,
    "refiner_widths": (4,),
}
MID = 16


def tiny_args(b, mid=MID):
    rng = np.random.default_rng(0)
    image, head = rng.uniform(-1, 1, (2, b, mid, mid, 3))
    segmap = np.eye(6)[rng.integers(0, 6, (b, 2 * mid, 2 * mid))]
    source = rng.uniform(-0.9, 0.9, (b, 68, 3))
    target = source + 0.1 * rng.standard_normal(source.shape)
    return tuple(a.astype(np.float32) for a in (image, segmap, source, target, head, rng.random((b, mid, mid, 1))))


def test_training_updates_statistics_and_singular_vectors():
    model, args = torso.TorsoModel(**TINY), tiny_args(2)
    variables = drawn(model, *args)
    # A wrong start: training must walk towards the true singular vectors.
    start = variables["batch_stats"]["generator"]["stem"]["conv"]
    true = start["u"].copy()
    start["u"] = (true + 0.5 * np.random.default_rng(0).standard_normal(true.shape)).astype(np.float32)
    step = quick_jit(lambda v: model.apply(v, *args, train=True, mutable=["batch_stats"])[1])
    stats = variables["batch_stats"]
    for _ in range(30):
        stats = step({**variables, "batch_stats": stats})["batch_stats"]
    conv = stats["generator"]["stem"]["conv"]
    assert abs(float(jnp.vdot(conv["u"], true))) > 0.99
    np.testing.assert_allclose(jnp.linalg.norm(conv["v"]), 1, rtol=1e-5)
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


def test_start_has_a_normalised_kernel():
    conv = torso.Conv(5, spectral=True)
    x = np.random.default_rng(0).standard_normal((1, 9, 9, 4)).astype(np.float32)
    variables = conv.init(jax.random.key(0), x)
    matrix = np.asarray(variables["params"]["kernel"]).reshape(-1, 5)
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    plain = torso.Conv(5).apply({"params": variables["params"]}, x)
    np.testing.assert_allclose(conv.apply(variables, x) * largest, plain, rtol=1e-3, atol=1e-4)


def test_motion_is_none_where_nothing_moved():
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.9, 0.9, (1, 4, 3)).astype(np.float32)
    volume = rng.standard_normal((1, 3, 6, 5, 2)).astype(np.float32)
    assert not jnp.any(torso.heatmaps(points, points, (3, 6, 5)))
    still = torso.shifted_volumes(volume, points, points)
    np.testing.assert_allclose(still, np.broadcast_to(volume[:, None], still.shape), atol=1e-6)
    # One voxel to the left in x: the source is read one to the right; what comes from outside is zero.
    moved = torso.shifted_volumes(volume, points + np.float32([0.5, 0, 0]), points)
    np.testing.assert_allclose(moved[:, 1, :, :, :-1], volume[:, :, :, 1:], atol=1e-5)
    np.testing.assert_allclose(moved[:, 1, :, :, -1], 0, atol=1e-5)


def test_motion_passes_a_tenth_of_its_gradient():
    x = jnp.arange(4.0)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(torso.scale_gradient(x, 0.1) ** 2))(x)
    np.testing.assert_allclose(value, jnp.sum(x**2), rtol=1e-6)
    np.testing.assert_allclose(gradient, 0.1 * 2 * x, rtol=1e-6)


def test_regularisers_weigh_each_sample_by_its_own_mask():
    rng = np.random.default_rng(0)
    small, large = rng.random((2, 4, 4, 1)), rng.random((2, 8, 8, 1))
    mask = rng.random((2, 8, 8)) > 0.5
    motion = torso.Motion(small, small, small)
    losses = torso.occlusion_losses(torso.TorsoOutput(small, small, large, motion), mask)
    weight = np.where(mask, 0.3, 1.0)[..., None]
    np.testing.assert_allclose(losses["occlusion_2_l1"], (large * weight).mean(), rtol=1e-6)
    np.testing.assert_allclose(losses["occlusion_l1"], (small * weight[:, ::2, ::2]).mean(), rtol=1e-6)
    entropy = -(large * np.log2(large) + (1 - large) * np.log2(1 - large))
    np.testing.assert_allclose(losses["occlusion_2_entropy"], entropy.mean(), rtol=1e-5)


def test_nonsense_is_refused():
    image, segmap, source, target, head, weights = tiny_args(1)
    key = jax.random.key(0)
    with pytest.raises(InputError, match="keypoints is 5"):
        torso.TorsoModel(keypoints=5).init(key, image, segmap, source, target, head, weights)
    with pytest.raises(InputError, match="multiple of 4"):
        torso.TorsoModel(**TINY).init(key, *tiny_args(1, mid=18))
    with pytest.raises(InputError, match=r"\[b, 68, 3\]"):
        drawn(torso.TorsoModel(**TINY), image, segmap, source[:, :4], target, head, weights)
    with pytest.raises(InputError, match="as many widths"):
        torso.TorsoModel(**{**TINY, "generator_widths": (8,)}).init(key, image, segmap, source, target, head, weights)
