"""Torso model: golden cases, caching, spectral normalisation, regularisers."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from official import captured, channels_first, channels_last, drawn, leaf, quick_jit

from r3p import convert
from r3p.errors import InputError
from r3p.models import torso
from r3p.names.torso import RULES

OFFICIAL_LOSSES = {
    "occlusion_l1": "facev2v/occlusion_reg_l1",
    "occlusion_2_l1": "facev2v/occlusion_2_reg_l1",
    "occlusion_2_entropy": "facev2v/occlusion_2_weights_entropy",
}
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


def official_case(case):
    meta, inputs, recorded = parity.load_case(case)
    variables = convert.to_variables(parity.official_weights(meta["model"]), RULES)
    images = [channels_last(inputs[k]) for k in ("torso_src", "segmap", "head_img", "head_weights")]
    args = (*images[:2], inputs["kp_s"], inputs["kp_d"], *images[2:])
    return meta, inputs, recorded, variables, args


def tiny_args(b, mid=MID):
    rng = np.random.default_rng(0)
    image, head = rng.uniform(-1, 1, (2, b, mid, mid, 3))
    segmap = np.eye(6)[rng.integers(0, 6, (b, 2 * mid, 2 * mid))]
    source = rng.uniform(-0.9, 0.9, (b, 68, 3))
    target = source + 0.1 * rng.standard_normal(source.shape)
    return tuple(a.astype(np.float32) for a in (image, segmap, source, target, head, rng.random((b, mid, mid, 1))))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["torso_v2", "torso_v1", "torso_v2_rgb"])
def test_matches_official(case):
    if not parity.available(case):
        pytest.skip("needs the fuller set of golden cases")
    meta, inputs, recorded, variables, args = official_case(case)
    model = torso.TorsoModel(version=1 if case == "torso_v1" else 2, alpha_input=case == "torso_v2")
    convert.check_against(variables, jax.eval_shape(model.init, jax.random.key(0), *args))
    out, state = jax.jit(lambda v, *a: model.apply(v, *a, capture_intermediates=True))(variables, *args)
    values = {
        "appearance_in_conv": captured(state, "appearance/stem"),
        "appearance_res0": captured(state, "appearance/res0"),
        "appearance": captured(state, "appearance"),
        "compress": captured(state, "compress"),
        "motion_down": torso.halve(captured(state, "motion/hourglass/down4")),
        "motion_up": captured(state, "motion/hourglass/up4"),
        "mask_conv": captured(state, "motion/mask"),
        "motion.1": captured(state, "motion").occlusion,
        "motion.2": captured(state, "motion").occlusion_2,
        "gen_in_conv": captured(state, "generator/stem"),
        "gen_res": captured(state, "generator/res5"),
        "gen_up": captured(state, "generator/up1"),
        "torso_rgb": out.rgb,
        "occlusion_2": out.occlusion_2,
        "deformed_torso_hid": out.hidden,
        "occlusion": out.motion.occlusion,
    }
    if model.version == 2:
        values["head_encoder"] = captured(state, "motion/head_encoder/res2")
        values["head_fuser"] = captured(state, "motion/head_fuser")
    values = {name: channels_first(value) for name, value in values.items()}
    values["motion.0"] = captured(state, "motion").deformation
    for prefix, mask in (("nomask", None), ("mask", inputs["target_mask"])):
        for name, value in torso.occlusion_losses(out, mask).items():
            values[f"{prefix}/{OFFICIAL_LOSSES[name]}"] = value[None]
    assert values.keys() == {n for n in recorded if not n.startswith("grad")}
    for name, value in values.items():
        parity.check(case, meta, recorded, name, value)


@pytest.mark.slow
def test_gradients_match_official():
    case = "torso_v2"
    meta, _, recorded, variables, args = official_case(case)
    cotangents = [
        channels_last(parity.cotangent(case, name, meta["outputs"][name]["shape"]))
        for name in ("torso_rgb", "occlusion_2")
    ]

    def total(params, image, head, weights):
        out = torso.TorsoModel().apply({**variables, "params": params}, image, *args[1:4], head, weights)
        return jnp.sum(out.rgb * cotangents[0]) + jnp.sum(out.occlusion_2 * cotangents[1])

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3)))
    value, (grads, *inner) = run(variables["params"], args[0], *args[4:])
    parity.check(case, meta, recorded, "grad_total", value[None])
    for name, grad in zip(("torso_src", "head_img", "head_weights"), inner, strict=True):
        parity.check(case, meta, recorded, f"grad/{name}", channels_first(grad))
    for name in (n.removeprefix("grad/") for n in recorded if n.startswith("grad/") and "." in n):
        parity.check(case, meta, recorded, f"grad/{name}", leaf({"params": grads}, RULES, name))


@pytest.mark.slow
def test_training_mode_matches_official():
    case = "torso_v2_train"
    meta, inputs, recorded, variables, args = official_case(case)
    run = jax.jit(lambda v, *a: torso.TorsoModel().apply(v, *a, train=True, mutable=["batch_stats"]))
    out, updated = run(variables, *args)
    parity.check(case, meta, recorded, "torso_rgb", channels_first(out.rgb))
    parity.check(case, meta, recorded, "occlusion_2", channels_first(out.occlusion_2))
    for name in (n for n in recorded if n.startswith("after/")):
        parity.check(case, meta, recorded, name, leaf(updated, RULES, name.removeprefix("after/")))
    # The official regulariser mixes the samples of a batch: the mean over pairs of one's occlusion and other's mask.
    mask = inputs["target_mask"]
    for ours, occlusion in (("occlusion_l1", out.motion.occlusion), ("occlusion_2_l1", out.occlusion_2)):
        pairs = [
            torso.occlusion_losses(
                torso.TorsoOutput(out.rgb[i : i + 1], out.hidden[i : i + 1], o2, torso.Motion(out.rgb, o1, o2)),
                mask[j : j + 1],
            )[ours]
            for i in range(2)
            for j in range(2)
            for o1, o2 in [(out.motion.occlusion[i : i + 1], out.occlusion_2[i : i + 1])]
        ]
        assert occlusion.shape[0] == 2
        parity.check(case, meta, recorded, f"mask/{OFFICIAL_LOSSES[ours]}", np.mean(pairs)[None])
    entropy = torso.occlusion_losses(out, mask)["occlusion_2_entropy"][None]
    parity.check(case, meta, recorded, f"mask/{OFFICIAL_LOSSES['occlusion_2_entropy']}", entropy)


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
