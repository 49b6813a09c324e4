"""The EG3D generator: golden cases of both variants, noise, truncation, views, gradients, refusals."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from official import captured, channels_first, drawn, quick_jit

from r3p import convert
from r3p.errors import InputError
from r3p.models.eg3d import EG3D, PUBLISHED
from r3p.names.eg3d import RULES

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


@pytest.mark.slow
@pytest.mark.parametrize("case", VARIANTS)
def test_golden(case):
    meta, inputs, recorded = parity.load_case(case)
    variables = convert.to_variables(parity.official_weights(case), RULES)
    model = EG3D(**VARIANTS[case])
    values = {}

    def style(model, truncation):
        return model.style(inputs["z"], inputs["ws_camera"], truncation)

    values["ws_psi1"] = model.apply(variables, 1.0, method=style)[:, 0]
    ws = values["ws"] = model.apply(variables, 0.7, method=style)
    run = jax.jit(lambda v, ws: model.apply(v, ws, method="planes", capture_intermediates=True))
    planes, state = run(variables, ws)
    for side in (4, 8, 16, 32, 64, 128, 256):
        features, image = captured(state, f"backbone/block{side}")
        values[f"b{side}.0"], values[f"b{side}.1"] = channels_first(features), channels_first(image)
    values["plane"] = np.moveaxis(planes, -1, 2)
    silent = EG3D(**VARIANTS[case], backbone_fields={"noise": "none"})
    quiet = jax.jit(lambda v, ws: silent.apply(v, ws, method="planes"))(variables, ws)
    values["plane_noise_none"] = np.moveaxis(quiet, -1, 2).reshape(1, 96, 256, 256)

    def draw(model, jitter, u, ws, planes):
        head = model.head(planes, inputs["camera"], jitter=jitter, u=u)
        return head, model.enlarge(head, ws)

    jitter, u = inputs["jitter"].reshape(1, -1, 48), inputs["u"][None]
    run = jax.jit(lambda v, *a: model.apply(v, *a, method=draw, capture_intermediates=True))
    (head, image), state = run(variables, jitter, u, ws, planes)
    values["image"] = channels_first(image)
    values["image_before_clamp"] = channels_first(captured(state, "superres"))
    values["image_raw"] = channels_first(head.rgb)
    values["image_depth"] = channels_first(head.depth)
    if case == "eg3d_r3d":
        values["image_feature"] = channels_first(head.feature[..., 3:])
    # All of them in the fuller set of golden cases, one a kind in the one that comes along.
    assert recorded.keys() <= values.keys()
    for name in recorded:
        parity.check(case, meta, recorded, name, values[name])


@pytest.mark.parametrize("case", VARIANTS)
def test_released_names_and_shapes_fit(case):
    manifest = json.loads((parity.CASES.parent / "manifests" / f"{case}.json").read_text())
    state = {name: np.broadcast_to(np.float32(0), spec["shape"]) for name, spec in manifest.items()}
    shapes = ((1, 512), (1, 25), (1, 25))
    wanted = jax.eval_shape(
        EG3D(**VARIANTS[case]).init, jax.random.key(0), *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
    )
    convert.check_against(convert.to_variables(state, RULES), wanted)
    # 30,662,136 in the original: the super-resolution's four strengths of noise, which it never adds, are left out.
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(wanted["params"])) == 30_662_132


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
