"""Super-resolution of the head and of head, torso and background: golden cases, caching, batches, gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from official import captured, channels_first, channels_last, drawn, leaf, quick_jit

from r3p import convert
from r3p.errors import InputError
from r3p.models.superres import SuperResolution, TorsoSuperResolution, low_quantile
from r3p.names import superres as names

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


def test_head_matches_official():
    meta, inputs, recorded = parity.load_case("sr_head")
    variables = convert.to_variables(parity.official_weights("sr_head"), names.HEAD)
    run = jax.jit(lambda v, *a: SuperResolution().apply(v, *a, capture_intermediates=True))
    rgb, state = run(variables, channels_last(inputs["rgb"]), channels_last(inputs["x"]), inputs["ws"][0, -1])
    values = {
        "rgb": rgb,
        "block0_conv0": captured(state, "block0/conv0"),
        "block0_conv1": captured(state, "block0/conv1"),
        "block0_torgb": captured(state, "block0/rgb"),
    }
    for block in ("block0", "block1"):
        values[f"{block}.0"], values[f"{block}.1"] = captured(state, block)
    assert values.keys() == recorded.keys()
    for name, value in values.items():
        parity.check("sr_head", meta, recorded, name, channels_first(value))


@pytest.mark.slow
def test_head_resizes_its_input_as_official():
    meta, inputs, recorded = parity.load_case("sr_head_resize")
    variables = convert.to_variables(parity.official_weights("sr_head"), names.HEAD)
    for n in ("64", "192"):
        image, features = channels_last(inputs["rgb" + n]), channels_last(inputs["x" + n])
        rgb = jax.jit(SuperResolution().apply)(variables, image, features, inputs["ws"][:, -1])
        parity.check("sr_head_resize", meta, recorded, "rgb" + n, channels_first(rgb))


@pytest.mark.slow
def test_head_noise_and_gradients_match_official():
    case = "sr_head_const_train"
    meta, inputs, recorded = parity.load_case(case)
    weights = parity.official_weights("sr_head")
    args = channels_last(inputs["rgb"]), channels_last(inputs["x"])
    noisy = convert.to_variables(weights, names.HEAD_NOISY)
    rgb = jax.jit(SuperResolution(noise="constant").apply)(noisy, *args)
    parity.check(case, meta, recorded, "rgb_const", channels_first(rgb))

    variables = convert.to_variables(weights, names.HEAD)
    cotangent = channels_last(parity.cotangent(case, "rgb", (1, 3, 512, 512)))

    def total(variables, rgb, features):
        image = SuperResolution().apply(variables, rgb, features)
        return jnp.sum(image * cotangent), image

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (value, image), (grads, *inner) = run(variables, *args)
    parity.check(case, meta, recorded, "rgb_train", channels_first(image))
    parity.check(case, meta, recorded, "grad_total", value[None])
    for name, grad in zip(("rgb", "x"), inner, strict=True):
        parity.check(case, meta, recorded, f"grad/{name}", channels_first(grad))
    for name in (n.removeprefix("grad/") for n in recorded if n.startswith("grad/block")):
        parity.check(case, meta, recorded, f"grad/{name}", leaf(grads, names.HEAD, name))


WARP = [f"sr_warp_{torso}_{fuse}" for torso in ("v1", "v2") for fuse in ("v1", "v2", "v3", "nofuse")]


def fusion(case):
    """The network and the names of a case of `WARP`."""
    torso, fuse = case.split("_")[2:]
    model = TorsoSuperResolution(
        fuse={"nofuse": "concat"}.get(fuse, fuse),
        torso_fields={} if torso == "v2" else {"version": 1, "alpha_input": False},
    )
    return model, names.RULES_V3 if fuse == "v3" else names.RULES


@pytest.mark.slow
@pytest.mark.parametrize("case", WARP)
def test_fusion_matches_official(case):
    if not parity.available(case):
        pytest.skip("needs the fuller set of golden cases")
    meta, inputs, recorded = parity.load_case(case)
    (model, rules), fuse = fusion(case), case.split("_")[-1]
    variables = convert.to_variables(parity.official_weights(meta["model"]), rules)
    images = [channels_last(inputs[k]) for k in ("rgb", "x", "weights_img", "ref_torso_rgb", "ref_bg_rgb", "segmap")]
    args = (*images, inputs["kp_s"], inputs["kp_d"], inputs["ws"][0, -1])
    out, state = jax.jit(lambda v, *a: model.apply(v, *a, capture_intermediates=True))(variables, *args)
    values = {
        "rgb": out.rgb,
        "occlusion_2": out.torso.occlusion_2,
        "deformed_torso_hid": out.torso.hidden,
        "torso_encoder": model.apply(variables, out.torso.hidden, method=lambda m, x: m.torso_encoder(x)),
        "bg_encoder": captured(state, "background_encoder"),
        "fuse_fg_bg": captured(state, "person_background_mix"),
    }
    blocks = ["block0", "block1"]
    if fuse in ("v2", "v3"):
        values["fuse_head_torso"] = captured(state, "head_torso_mix")
        blocks.append("head_torso_block")
    if fuse == "v3":
        values["alpha_predictor"] = jax.nn.sigmoid(captured(state, "alpha_predictor"))
    for block in blocks:
        values[f"{block}.0"], values[f"{block}.1"] = captured(state, block)
    assert values.keys() == {n for n in recorded if not n.startswith("grad")}
    for name, value in values.items():
        parity.check(case, meta, recorded, name, channels_first(value))


@pytest.mark.slow
def test_fusion_gradients_match_official():
    case = "sr_warp_v2_v2"
    meta, inputs, recorded = parity.load_case(case)
    variables = convert.to_variables(parity.official_weights(meta["model"]), names.RULES)
    rest = [channels_last(inputs[k]) for k in ("weights_img", "ref_torso_rgb", "ref_bg_rgb", "segmap")]
    cotangent = channels_last(parity.cotangent(case, "rgb", (1, 3, 512, 512)))

    def total(params, rgb, features):
        out = TorsoSuperResolution().apply(
            {**variables, "params": params}, rgb, features, *rest, inputs["kp_s"], inputs["kp_d"]
        )
        return jnp.sum(out.rgb * cotangent)

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    value, (grads, *inner) = run(variables["params"], channels_last(inputs["rgb"]), channels_last(inputs["x"]))
    parity.check(case, meta, recorded, "grad_total", value[None])
    for name, grad in zip(("rgb", "x"), inner, strict=True):
        parity.check(case, meta, recorded, f"grad/{name}", channels_first(grad))
    for name in (n.removeprefix("grad/") for n in recorded if n.startswith("grad/") and "." in n):
        parity.check(case, meta, recorded, f"grad/{name}", leaf({"params": grads}, names.RULES, name))


@pytest.mark.parametrize("case", WARP)
def test_official_names_and_shapes_fit(case):
    path = parity.CASES.parent / "manifests" / f"{case}.json"
    if not path.exists():
        pytest.skip("needs the fuller set of golden cases")
    state = {name: np.broadcast_to(np.float32(0), s["shape"]) for name, s in json.loads(path.read_text()).items()}
    model, rules = fusion(case)
    shapes = [(1, 128, 128, c) for c in (3, 32, 1)] + [(1, 512, 512, c) for c in (3, 3, 6)] + [(1, 68, 3)] * 2
    wanted = jax.eval_shape(model.init, jax.random.key(0), *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    convert.check_against(convert.to_variables(state, rules), wanted)


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
