"""The EG3D generator: golden cases of both variants, noise, truncation, views, gradients, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import drawn, quick_jit

from r3p.errors import InputError
from r3p.models.eg3d import EG3D, PUBLISHED

VARIANTS = {"eg3d_r3d": {}, "eg3d_orig": PUBLISHED}
TINY = {
    "latent": 6,
    "style_width": 8,
    "plane_channels": 4,
    "backbone_fields": {"widths": (8, 8, 6)},
    "decoder_fields": {"hidden": 8, "features": 5},
    "superres_fields": {"widths": (6, 4), "raw_resolution": 8},
    "coarse": 4,
    "fine": 2,
}


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def camera_at(x):
    """A camera 2.7 from the origin's plane, moved along x, looking along -z."""
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[:3, 3] = x, 0, 2.7
    focal = np.array([[4.26, 0, 0.5], [0, 4.26, 0.5], [0, 0, 1]])
    return np.concatenate([pose.ravel(), focal.ravel()])[None].astype(np.float32)


def tiny(**fields):
    model = EG3D(**{**TINY, **fields})
    z = np.random.default_rng(0).standard_normal((1, 6), dtype=np.float32)
    args = z, camera_at(0.1), camera_at(0.0)
    return model, drawn(model, *args), args


def test_truncation_pulls_to_the_mean_style():
    model, variables, (z, camera, _) = tiny()
    full, half, none = (model.apply(variables, z, camera, t, method="style") for t in (1.0, 0.5, 0.0))
    mean = variables["constants"]["mean_style"]
    assert full.shape == (1, 6, 8)
    np.testing.assert_allclose(none, np.broadcast_to(mean, none.shape), atol=1e-6)
    np.testing.assert_allclose(half, (full + mean) / 2, atol=1e-6)


def test_noise():
    model, variables, (z, camera, _) = tiny()
    ws = model.apply(variables, z, camera, method="style")
    planes = {}
    for noise in ("none", "constant", "random"):
        kind = model.clone(backbone_fields={**TINY["backbone_fields"], "noise": noise})
        run = quick_jit(lambda key, kind=kind: kind.apply(variables, ws, method="planes", rngs={"noise": key}))
        for seed in (0, 1):
            planes[noise, seed] = run(jax.random.key(seed))
    assert jnp.array_equal(planes["constant", 0], planes["constant", 1])
    assert not jnp.array_equal(planes["none", 0], planes["constant", 0])
    assert not jnp.array_equal(planes["random", 0], planes["random", 1])
    with pytest.raises(Exception, match="noise"):
        kind.apply(variables, ws, method="planes")


@pytest.mark.parametrize("variant", ["eg3d_r3d", pytest.param("eg3d_orig", marks=pytest.mark.slow)])
def test_training_reaches_every_parameter(variant):
    model, variables, args = tiny(**VARIANTS[variant])

    def loss(params, z, mapping_camera, camera):
        head, image = model.apply({**variables, "params": params}, z, mapping_camera, camera)
        return jnp.mean(image) + jnp.mean(head.depth)

    grads = quick_jit(jax.grad(loss))(variables["params"], *args)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert bool(jnp.isfinite(grad).all()) and jnp.any(grad), jax.tree_util.keystr(path)


def test_planes_serve_several_cameras():
    model, variables, (z, mapping_camera, camera) = tiny(limits=(2.25, 3.3))
    cameras = np.concatenate([camera, camera_at(0.2)])
    together, image = quick_jit(model.apply)(variables, np.repeat(z, 2, 0), np.repeat(mapping_camera, 2, 0), cameras)
    assert together.rgb.shape == (2, 8, 8, 3) and image.shape == (2, 32, 32, 3)

    def one_by_one(model, z, mapping_camera):
        ws = model.style(z, mapping_camera)
        planes = model.planes(ws)
        return [model.enlarge(model.head(planes, c[None]), ws) for c in cameras]

    for got, want in zip(
        quick_jit(lambda v, *a: model.apply(v, *a, method=one_by_one))(variables, z, mapping_camera), image, strict=True
    ):
        np.testing.assert_allclose(got[0], want, atol=2e-5)


def test_half_precision_keeps_images_in_float32():
    model, variables, args = tiny(dtype=jnp.bfloat16)
    _, image = quick_jit(model.apply)(variables, *args)
    _, full = quick_jit(model.clone(dtype=jnp.float32).apply)(variables, *args)
    assert image.dtype == jnp.float32
    assert jnp.abs(image - full).max() < 0.1


def test_refusals():
    model, variables, (z, camera, _) = tiny()
    with pytest.raises(InputError, match=r"latents are \[b, 6\], got \(1, 5\)"):
        model.apply(variables, z[:, :5], camera, method="style")
    with pytest.raises(InputError, match=r"styles \[b, 6, s\], got \(1, 4, 8\)"):
        model.apply(variables, jnp.zeros((1, 4, 8)), method="planes")
    with pytest.raises(InputError, match="choose ones or latent"):
        tiny(superres_style="camera")
