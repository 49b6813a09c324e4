import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import traverse_util

from r3p import camera, convert
from r3p.errors import InputError
from r3p.models.portrait import Portrait
from r3p.names import portrait as names

# The architecture of the shipped default at toy sizes.
TINY = dict(
    source_size=32,
    img2plane_fields=dict(
        channels=8,
        resnet=dict(widths=(4, 4, 8, 8), blocks=(1, 1, 1, 1)),
        pooling=dict(width=8, rates=(1, 2, 3)),
        low=dict(width=16, blocks=1, heads=2, convs=(8, 8), features=8),
        high=dict(stem=4, width=8, convs=1),
        fusion=dict(before=(8,), width=16, heads=2, after=(8,)),
    ),
    adapter_fields=dict(
        channels=8,
        encoder=dict(depths=(1, 1), widths=(8, 8), heads=(1, 2), reductions=(2, 1), stride=2),
        width=8,
        upsample=1,
        out_scale=0.01,
    ),
    decoder_fields=dict(hidden=8, features=6),
    coarse=4,
    fine=4,
    chunk=64,
)
TORSO = dict(
    widths=(8, 4),
    raw_resolution=16,
    style_width=8,
    background_width=4,
    fuse_width=8,
    torso_fields=dict(
        appearance_widths=(4, 4, 8),
        volume_channels=4,
        volume_depth=2,
        appearance_residuals=1,
        compressed_channels=2,
        motion_widths=(4, 8),
        head_width=4,
        head_residuals=1,
        generator_widths=(8, 4, 4),
        generator_residuals=1,
        refiner_widths=(4,),
        mask_dilation=3,
    ),
)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def last(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def check_head(check, head, prefix=""):
    check(f"{prefix}image_raw", np.clip(first(head.rgb), -1, 1))
    check(f"{prefix}image_depth", first(head.depth))
    check(f"{prefix}weights_img", first(head.weight))


def golden(case, rules, torso, **fields):
    """Meta, variables, model, ray options, our inputs and the check of a whole-model case."""
    meta, inputs, recorded = parity.load_case(case)
    variables = convert.to_variables(parity.official_weights(meta["model"]), rules)
    model = Portrait(torso=torso, **fields)
    options = dict(
        resolution=int(inputs["jitter"].shape[1] ** 0.5),
        jitter=jnp.asarray(inputs["jitter"][..., 0]),
        u=jnp.asarray(inputs["u"])[None],
    )
    ours = {k: last(v) if v.ndim == 4 else jnp.asarray(v) for k, v in inputs.items() if k not in ("jitter", "u")}
    return variables, model, options, ours, functools.partial(parity.check, case, meta, recorded)


def apply(model, variables, method, **options):
    # Variables as an argument: as constants the compiler would compute with them.
    return functools.partial(jax.jit(functools.partial(model.apply, method=method, **options)), variables)


def pncc(x, target="cond_tgt"):
    return jnp.concatenate([x["cond_cano"], x["cond_src"], x[target]], axis=-1)


TRIGRID = dict(img2plane_fields=dict(depth=3), grid_blocks=1)


@pytest.mark.slow
@pytest.mark.parametrize("case, fields", [("i2p_full_small", {}), ("i2p_full_trigrid_v2_small", TRIGRID)])
def test_golden_image_to_plane(case, fields):
    variables, model, options, x, check = golden(case, names.IMAGE_TO_PLANE, torso=False, **fields)
    planes = np.moveaxis(np.asarray(apply(model, variables, "canonical")(x["img"])), -1, 2)
    check("plane", planes.reshape(1, 3, -1, *planes.shape[-2:]))  # depth slices are the fastest part of their channels
    head, image = apply(model, variables, "reconstruct", **options)(x["img"], x["camera"])
    check_head(check, head)
    check("image_feature", first(head.feature)[:, 3:])
    check("image_before_clamp", first(image))
    check("image", np.clip(first(image), -1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["head_full_small", "head_full", "torso_full_small", "torso_full"])
def test_golden_model(case):
    if not parity.available(case):
        pytest.skip(f"{case} is not among the cases")
    torso = case.startswith("torso")
    rules = names.RULES if torso else names.HEAD
    variables, model, options, x, check = golden(case, rules, torso)
    canonical, motion = (apply(model, variables, m) for m in ("canonical", "motion"))
    render = apply(model, variables, "head", **options)
    planes, residual = canonical(x["img"]), motion(pncc(x))
    check("cano_planes", np.moveaxis(np.asarray(planes), -1, 2))
    check("secc_planes", np.moveaxis(np.asarray(residual), -1, 2))
    check("plane", np.moveaxis(np.asarray(planes + residual), -1, 2))
    head = render(planes + residual, x["camera"])
    check_head(check, head)
    check("image_feature", first(head.feature)[:, 3:])
    second = render(planes + motion(pncc(x, "cond_tgt2")), x["camera2"])
    check_head(check, second, "second/")

    if torso:
        cache = apply(model, variables, "encode")(x["ref_torso_img"], x["bg_img"], x["segmap"])
        frame = apply(model, variables, "frame")
        out, out2 = (frame(cache, h, x["kp_s"], x[k]) for h, k in ((head, "kp_d"), (second, "kp_d2")))
        check("occlusion_2", first(out.torso.occlusion_2))
        check("deformed_torso_hid", first(out.torso.hidden))
        image, image2 = out.rgb, out2.rgb
    else:
        enlarge = apply(model, variables, "enlarge")
        image, image2 = enlarge(head), enlarge(second)
    check("image_before_clamp", first(image))
    check("image", np.clip(first(image), -1, 1))
    check("second/image", np.clip(first(image2), -1, 1))


@pytest.mark.slow
def test_reduced_precision_frame():
    """Networks in bfloat16 on float32 weights, from the photograph to the frame: 45 dB of the official float32 one."""
    case = "torso_full"
    if not parity.available(case):
        pytest.skip(f"{case} is not among the cases")
    variables, model, options, x, _ = golden(case, names.RULES, torso=True, dtype=jnp.bfloat16)
    meta, _, recorded = parity.load_case(case)

    def frame(m, x):
        head = m.head(m.fuse(m.canonical(x["img"]), m.motion(pncc(x))), x["camera"], **options)
        return m.frame(m.encode(x["ref_torso_img"], x["bg_img"], x["segmap"]), head, x["kp_s"], x["kp_d"]).rgb

    image = np.asarray(apply(model, variables, frame)(x))
    assert image.dtype == np.float32 and np.isfinite(image).all()
    want, spec = recorded["image"], meta["outputs"]["image"]
    got = np.clip(first(image), -1, 1).reshape(-1)
    if "sampled" in spec:
        got = got[parity.detweights.sample_indices(case, "image", got.size, spec["sampled"])]
    psnr = 10 * np.log10(4 / np.mean((got - want.reshape(-1)) ** 2))
    print(f"bfloat16 frame: {psnr:.1f} dB")
    assert psnr >= 45


@pytest.mark.slow
def test_golden_gradients():
    case = "head_full_small"
    variables, model, options, x, check = golden(case, names.HEAD, torso=False)
    meta, _, _ = parity.load_case(case)
    weigh = [parity.cotangent(case, k, meta["outputs"][k]["shape"]) for k in ("image_raw", "weights_img")]

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def total(params, image, target):
        bound = {**variables, "params": params}
        planes = model.apply(bound, image, method="canonical")
        planes += model.apply(bound, pncc({**x, "cond_tgt": target}), method="motion")
        head = model.apply(bound, planes, x["camera"], method="head", **options)
        raw = jnp.clip(jnp.moveaxis(head.rgb, -1, 1), -1, 1)
        return (raw * weigh[0]).sum() + (jnp.moveaxis(head.weight, -1, 1) * weigh[1]).sum()

    value, (grads, image_grad, target_grad) = total(variables["params"], x["img"], x["cond_tgt"])
    grads = traverse_util.flatten_dict(grads, sep="/")
    check("grad_total", value[None])
    check("grad/img", first(image_grad))
    check("grad/cond_tgt", first(target_grad))
    kernel = grads["img2plane/fusion/out/conv/kernel"]
    check("grad/cano_img2plane_backbone.triplane_predictor_vit.final_conv.weight", kernel.transpose(3, 2, 0, 1))
    check("grad/secc_img2plane_backbone.to_plane_cnn.7.bias", grads["adapter/planes/out/bias"])
    check("grad/secc_img2plane_backbone.prenet.weight", grads["adapter/mix_kernel"].transpose(3, 2, 0, 1))
    check("grad/decoder.net.0.weight", grads["decoder/hidden_layer/kernel"].T)


@pytest.mark.parametrize(
    "manifest, rules, method, fields, count",
    [
        ("i2p_full", names.IMAGE_TO_PLANE, "reconstruct", {}, 88_986_791),
        ("i2p_full_trigrid_v2", names.IMAGE_TO_PLANE, "reconstruct", TRIGRID, 89_263_656),
        ("head_full", names.HEAD, "animate", {}, None),
        ("torso_full", names.RULES, "__call__", {}, None),
    ],
)
def test_every_official_name_has_its_place(manifest, rules, method, fields, count):
    """Shapes only: the official model's names fill ours exactly.

    `count` is the official number of parameters less four strengths of a noise that is never added.
    """
    torso = method == "__call__"
    model = Portrait(torso=torso, **fields)
    path = parity.CASES.parent / "manifests" / f"{manifest}.json"
    if not path.exists():
        pytest.skip(f"{manifest} is not among the manifests")
    state = {k: np.broadcast_to(np.float32(0), v["shape"]) for k, v in parity.json.loads(path.read_text()).items()}
    variables = convert.to_variables(state, rules)

    def image(channels, size=512):
        return jnp.zeros((1, size, size, channels))

    arguments = [image(3), jnp.zeros((1, 25))] if method == "reconstruct" else [image(3), image(9), jnp.zeros((1, 25))]
    if torso:
        arguments += [image(3), image(3), image(6), jnp.zeros((1, 68, 3)), jnp.zeros((1, 68, 3))]
    wanted = jax.eval_shape(functools.partial(model.init, method=method), jax.random.key(0), *arguments)
    convert.check_against(variables, wanted)
    assert count in (None, sum(v.size for v in jax.tree.leaves(wanted["params"])))


def example(b=1, s=32):
    rng = np.random.default_rng(0)

    def image(channels):
        return jnp.asarray(rng.uniform(-1, 1, (b, s, s, channels)), jnp.float32)

    cam = jnp.asarray(camera.from_pose(rng.normal(0, 0.1, (b, 3)), np.zeros((b, 3))), jnp.float32)
    keypoints = jnp.asarray(rng.uniform(-0.8, 0.8, (b, 68, 3)), jnp.float32)
    segmap = jax.nn.one_hot(jnp.asarray(rng.integers(0, 6, (b, s, s))), 6)
    return image(3), image(9), cam, image(3), image(3), segmap, keypoints, keypoints + 0.05


def drawn(shapes):
    """Weights of the right size without compiling an initialisation, which takes longer than all else here."""
    rng = np.random.default_rng(0)

    def leaf(path, spec):
        name = path[-1].key
        if "kernel" in name:
            return rng.normal(0, np.prod(spec.shape[:-1]) ** -0.5, spec.shape).astype(np.float32)
        return np.full(spec.shape, 1.0 if name in ("scale", "var") else 0.01, np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def test_shapes():
    model = Portrait(**TINY, superres_fields=TORSO)
    (head, out), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), *example(b=2))
    assert head.rgb.shape == (2, 16, 16, 3) and head.feature.shape == (2, 16, 16, 6)
    assert head.depth.shape == head.weight.shape == (2, 16, 16, 1)
    assert out.rgb.shape == (2, 64, 64, 3)


def test_larger_planes_and_finer_rays():
    finer = TORSO | {"raw_resolution": 32, "up": 1}
    model = Portrait(**TINY, superres_fields=finer, double_planes=True, box=(1.0, 1.0, 0.6))
    assert (model.raw_resolution, model.frame_size) == (32, 64)
    arguments = example(b=1)
    variables = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    head, out = jax.eval_shape(model.apply, variables, *arguments)
    assert head.rgb.shape == (1, 32, 32, 3) and out.rgb.shape == (1, 64, 64, 3)
    plain = Portrait(**TINY, superres_fields=finer)
    shapes = [
        jax.eval_shape(functools.partial(m.apply, method=method), variables, x).shape
        for method, x in (("canonical", arguments[0]), ("motion", arguments[1]))
        for m in (plain, model)
    ]
    for small, large in (shapes[:2], shapes[2:]):
        assert large == (*small[:2], 2 * small[2], 2 * small[3], small[4])


@pytest.mark.slow
def test_tiny_trains_and_caches_agree():
    model = Portrait(**TINY, superres_fields=TORSO)
    arguments = example(b=2)
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), *arguments))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params, arguments):
        (head, out), updated = model.apply(
            {**variables, "params": params},
            *arguments,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return (out.rgb**2).mean() + (head.rgb**2).mean() + head.weight.mean(), updated

    _, grads = loss(variables["params"], arguments)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    for part in ("img2plane", "adapter", "decoder", "superres"):
        assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(grads[part])), part

    # Once a portrait, then frame by frame: the same as in one go.
    _, whole = jax.jit(model.apply)(variables, *arguments)

    @jax.jit
    def staged(variables, image, pncc, cam, torso, background, segmap, source, target):
        portrait = model.bind(variables)
        planes = portrait.fuse(portrait.canonical(image), portrait.motion(pncc))
        cache = portrait.encode(torso, background, segmap)
        return portrait.frame(cache, portrait.head(planes, cam), source, target).rgb

    np.testing.assert_allclose(staged(variables, *arguments), whole.rgb, atol=1e-5)


def test_head_model_and_misuse():
    fields = {**TINY, "superres_fields": dict(widths=(8, 4), raw_resolution=16, style_width=8)}
    model = Portrait(**fields, torso=False, plane_fusion="mul")
    arguments = example()
    head, image = jax.eval_shape(
        functools.partial(model.init_with_output, method="animate"), jax.random.key(0), *arguments[:3]
    )[0]
    assert image.shape == (1, 64, 64, 3) and head.rgb.shape == (1, 16, 16, 3)
    # Without motion there is no adapter to initialise.
    variables = jax.eval_shape(
        functools.partial(model.init, method="reconstruct"), jax.random.key(0), arguments[0], arguments[2]
    )
    assert set(variables["params"]) == {"img2plane", "decoder", "superres"}
    with pytest.raises(InputError, match="has no torso"):
        jax.eval_shape(model.init, jax.random.key(0), *arguments)
    with pytest.raises(InputError, match="plane fusion"):
        jax.eval_shape(Portrait(plane_fusion="max").init, jax.random.key(0), *arguments)
