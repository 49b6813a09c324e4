import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from r3p import camera, detweights
from r3p.errors import InputError
from r3p.models.portrait import Portrait
from r3p.parity import whole

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


@pytest.mark.slow
def test_reduced_precision_frame():
    """Networks in bfloat16 on float32 weights, from the photograph to the frame: 45 dB of the official float32 one."""
    if "torso_full" not in parity.FOLDER.names():
        pytest.skip("torso_full is not among the cases")
    case = parity.FOLDER.case("torso_full")
    model = case.network.module.clone(dtype=jnp.bfloat16)
    x, rays = whole.inputs(case)

    def frame(m, x):
        head = m.head(m.fuse(m.canonical(x["img"]), m.motion(whole.pncc(x))), x["camera"], **rays)
        return m.frame(m.encode(x["ref_torso_img"], x["bg_img"], x["segmap"]), head, x["kp_s"], x["kp_d"]).rgb

    image = np.asarray(jax.jit(functools.partial(model.apply, method=frame))(case.variables, x))
    assert image.dtype == np.float32 and np.isfinite(image).all()
    got, want = np.clip(np.moveaxis(image, -1, 1), -1, 1).reshape(-1), case.recorded["image"].reshape(-1)
    if "sampled" in (spec := case.meta["outputs"]["image"]):
        got = got[detweights.sample_indices(case.name, "image", got.size, spec["sampled"])]
    psnr = 10 * np.log10(4 / np.mean((got - want) ** 2))
    print(f"bfloat16 frame: {psnr:.1f} dB")
    assert psnr >= 45


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
