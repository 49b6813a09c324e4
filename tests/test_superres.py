"""Super-resolution of the head and of head, torso and background: golden cases, caching, batches, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import drawn, quick_jit

from r3p.errors import InputError
from r3p.models.superres import SuperResolution, TorsoSuperResolution, low_quantile

RAW, IMAGE = 16, 64
TINY_TORSO = {
    "appearance_widths": (6, 8, 8),
    "volume_channels": 4,
    "volume_depth": 2,
    "appearance_residuals": 1,
    "motion_widths": (8,),
    "motion_kernel": 3,
    "head_width": 4,
    "head_residuals": 0,
    "generator_widths": (8, 8, 6),
    "generator_residuals": 1,
    "refiner_widths": (4,),
}
TINY = {"widths": (8, 6), "raw_resolution": RAW, "style_width": 8, "background_width": 4, "fuse_width": 6}


def tiny(fuse="v2", **fields):
    return TorsoSuperResolution(torso_fields=TINY_TORSO, fuse=fuse, alpha_widths=(4, 4), **TINY, **fields)


def portrait(b):
    """Torso image, background, segmentation."""
    rng = np.random.default_rng(1)
    torso, background = rng.uniform(-1, 1, (2, b, IMAGE, IMAGE, 3)).astype(np.float32)
    return torso, background, np.eye(6, dtype=np.float32)[rng.integers(0, 6, (b, IMAGE, IMAGE))]


def rendered(b):
    """Raw image, features, weights."""
    rng = np.random.default_rng(2)
    rgb, features = rng.uniform(-1, 1, (b, RAW, RAW, 3)), rng.standard_normal((b, RAW, RAW, 5))
    return tuple(a.astype(np.float32) for a in (rgb, features, rng.uniform(0, 1, (b, RAW, RAW, 1))))


def keypoints(b):
    rng = np.random.default_rng(3)
    source = rng.uniform(-0.9, 0.9, (b, 68, 3))
    return tuple(a.astype(np.float32) for a in (source, source + 0.1 * rng.standard_normal((b, 68, 3))))


@pytest.mark.parametrize(
    "fuse", ["v2", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("v1", "v3", "concat"))]
)
def test_training_reaches_every_parameter(fuse):
    model, b = tiny(fuse), 2
    args = (*rendered(b), *portrait(b), *keypoints(b))
    variables = drawn(model, *args)

    def loss(params, weights):
        values = {**variables, "params": params}
        out, _ = model.apply(values, *args[:2], weights, *args[3:], train=True, mutable=["batch_stats"])
        return jnp.mean(out.rgb**2) + jnp.mean(out.torso.occlusion_2) + jnp.mean(out.torso.rgb**2)

    grads, weights_grad = quick_jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], args[2])
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    # The first occlusion only meets its regulariser; without masks the first block's image has no use.
    idle = ["['motion']['occlusion']"] + (["['block0']['rgb']"] if fuse == "concat" else [])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert jnp.any(grad) != any(i in name for i in idle), name
    assert not jnp.any(weights_grad), "the fusion must not train the renderer through its weights"


@pytest.mark.parametrize(
    "fuse", ["v3", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("v1", "v2", "concat"))]
)
def test_one_cache_serves_many_frames(fuse):
    model, b = tiny(fuse), 2
    images, points = rendered(b), keypoints(b)
    variables = drawn(model, *(a[:1] for a in images), *portrait(1), *(a[:1] for a in points))
    cache = quick_jit(lambda v, *a: model.apply(v, *a, method="encode"))(variables, *portrait(1))
    together = quick_jit(lambda v, *a: model.apply(v, *a, method="decode"))(variables, cache, *images, *points)
    assert together.rgb.shape == (b, 4 * RAW, 4 * RAW, 3)
    alone = quick_jit(model.apply)
    for i in range(b):
        one = alone(variables, *(a[i : i + 1] for a in images), *portrait(1), *(a[i : i + 1] for a in points))
        np.testing.assert_allclose(together.rgb[i], one.rgb[0], atol=2e-5)


def test_folding_the_torso_encoder_is_exact():
    model = tiny()
    variables = drawn(model, *rendered(1), *portrait(1), *keypoints(1))

    def both(model, x, mask):
        folded = model.head_torso.part_after(1, model.torso_encoder, x, mask)
        return folded, model.head_torso.part(1, model.torso_encoder(x) * mask)

    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((2, 9, 9, 6)).astype(np.float32), rng.random((2, 9, 9, 1), dtype=np.float32)
    np.testing.assert_allclose(*model.apply(variables, x, mask, method=both), atol=1e-5)


def test_low_quantile():
    alpha = np.random.default_rng(0).random((3, 8, 9, 1), dtype=np.float32)
    alpha[2] = 0.01
    got = low_quantile(alpha)[:, 0, 0, 0]
    want = [np.quantile(a[a > 0.05], 0.05) for a in alpha[:2]] + [0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_half_precision_keeps_images_in_float32():
    model = SuperResolution(widths=(8, 4), raw_resolution=RAW, style_width=8, dtype=jnp.bfloat16)
    rgb, features, _ = rendered(1)
    variables = drawn(model, rgb, features)
    image = quick_jit(model.apply)(variables, rgb, features)
    assert image.dtype == jnp.float32
    full = quick_jit(model.clone(dtype=jnp.float32).apply)(variables, rgb, features)
    assert jnp.abs(image - full).max() < 0.1 * jnp.abs(full).max()


def test_unknown_mode_is_refused():
    with pytest.raises(InputError, match="v1, v2, v3 or concat"):
        drawn(tiny("v4"), *rendered(1), *portrait(1), *keypoints(1))
