import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import traverse_util

from r3p import convert
from r3p.errors import InputError
from r3p.models import segformer
from r3p.models.motion_adapter import MotionAdapter
from r3p.models.planes import to_planes
from r3p.models.segformer import MixTransformer, SegFormerPlanes, encoder_fields
from r3p.names import motion_adapter as names
from r3p.names import segformer as segformer_names

SMALL = dict(
    channels=16,
    encoder=dict(depths=(1, 1, 1, 1), widths=(24, 32, 64, 96), heads=(1, 2, 4, 6), stride=2),
    width=48,
    upsample=1,
    out_scale=0.01,
)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def official(planes):
    """Ours [b, 3, h, w, c] as recorded: [b, 3, c, h, w]."""
    return np.moveaxis(np.asarray(planes), -1, 2)


def check_seams(check, seen, at, head):
    """Seams both networks share, by the module path of the encoder's parent."""

    def image(*path):
        node = functools.reduce(lambda n, k: n[k], path, at(seen))["__call__"][0]
        return np.asarray(node[0] if isinstance(node, tuple) else node)

    def tokens(*path):
        x = image(*path)
        return x.reshape(x.shape[0], -1, x.shape[-1])

    check("patch_embed1.0", tokens("encoder", "embed0"))
    check("block1_0", tokens("encoder", "block0_0"))
    check("block3_1_attn", tokens("encoder", "block2_1", "attention"))
    for i in range(4):
        check(f"mix_vit.{i}", image("encoder", f"norm{i}").transpose(0, 3, 1, 2))
    check("fuse_head", image("head").transpose(0, 3, 1, 2))
    check("to_plane_cnn", image("out").transpose(0, 3, 1, 2))


def run_golden(case, model, rules, at):
    meta, inputs, recorded = parity.load_case(case)
    variables = convert.to_variables(parity.official_weights(meta["model"]), rules)
    x = jnp.asarray(inputs["x"].transpose(0, 2, 3, 1))
    convert.check_against(variables, jax.eval_shape(model.init, jax.random.key(0), x))
    check = functools.partial(parity.check, case, meta, recorded)
    planes, seen = jax.jit(functools.partial(model.apply, capture_intermediates=True))(variables, x)
    check("planes", official(planes))
    check_seams(check, seen["intermediates"], at, "head")
    return meta, variables, x, check


@pytest.mark.parametrize("case", ["secc2plane_small", pytest.param("secc2plane", marks=pytest.mark.slow)])
def test_golden_adapter(case):
    if not parity.available(case):
        pytest.skip(f"{case} is not among the cases")
    model = MotionAdapter()
    meta, variables, x, check = run_golden(case, model, names.RULES, lambda seen: seen["planes"])
    if case == "secc2plane":
        return
    cotangent = parity.cotangent(case, "planes", meta["outputs"]["planes"]["shape"])

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def total(params, x):
        planes = model.apply({**variables, "params": params}, x)
        return (jnp.moveaxis(planes, -1, 2) * cotangent).sum()

    value, (grads, x_grad) = total(variables["params"], x)
    grads = traverse_util.flatten_dict(grads, sep="/")
    check("grad_total", value[None])
    check("grad/x", x_grad.transpose(0, 3, 1, 2))
    check("grad/prenet.weight", grads["mix_kernel"].transpose(3, 2, 0, 1))
    kernel = grads["planes/encoder/block0_0/attention/reduce/kernel"]
    check("grad/mix_vit.block1.0.attn.sr.weight", kernel.transpose(3, 2, 0, 1))
    kernel = grads["planes/encoder/block3_1/mlp/mix_kernel"]
    check("grad/mix_vit.block4.1.mlp.dwconv.dwconv.weight", kernel.transpose(3, 2, 0, 1))
    check("grad/fuse_head.linear_fuse.bn.weight", grads["planes/head/norm/scale"])
    check("grad/to_plane_cnn.7.weight", grads["planes/out/kernel"].transpose(3, 2, 0, 1))


def test_golden_batch_statistics():
    case = "secc2plane_bn_train"
    meta, inputs, recorded = parity.load_case(case)
    variables = convert.to_variables(parity.official_weights(meta["model"]), names.RULES)
    model = MotionAdapter(dropout=0.0, encoder=dict(drop_path=0.0))
    x = jnp.asarray(inputs["x"].transpose(0, 2, 3, 1))
    run = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    planes, updated = run(variables, x, rngs={"dropout": jax.random.key(0)})
    stats = updated["batch_stats"]["planes"]["head"]["norm"]
    parity.check(case, meta, recorded, "planes", official(planes))
    parity.check(case, meta, recorded, "running_mean", stats["mean"])
    parity.check(case, meta, recorded, "running_var", stats["var"])


@pytest.mark.slow
def test_golden_segformer_image_to_plane():
    case = "segformer_img2plane_b3"
    if not parity.available(case):
        pytest.skip(f"{case} is not among the cases")
    model = SegFormerPlanes(encoder=encoder_fields("b3"))
    run_golden(case, model, segformer_names.RULES, lambda seen: seen)


@pytest.mark.parametrize(
    "scale, count",
    [("b0", 5_705_664), ("b3", 46_589_472)],
)
def test_pure_segformer_takes_official_names(scale, count):
    """The image-to-plane networks on one encoder alone, from their names and shapes."""
    path = parity.CASES.parent / "manifests" / f"segformer_img2plane_{scale}.json"
    state = {k: np.broadcast_to(np.float32(0), v["shape"]) for k, v in json.loads(path.read_text()).items()}
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    model = SegFormerPlanes(encoder=encoder_fields(scale))
    planes, wanted = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert planes.shape == (1, 3, 256, 256, 32)
    convert.check_against(convert.to_variables(state, segformer_names.RULES), wanted)
    assert sum(v.size for v in jax.tree.leaves(wanted["params"])) == count


@pytest.mark.parametrize(
    "scale, millions", [("b0", 5.71), ("b1", 15.67), ("b2", 26.71), ("b3", 46.59), ("b4", 63.36), ("b5", 83.96)]
)
def test_published_scales(scale, millions):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    wanted = jax.eval_shape(SegFormerPlanes(encoder=encoder_fields(scale)).init, jax.random.key(0), image)
    assert round(sum(v.size for v in jax.tree.leaves(wanted["params"])) / 1e6, 2) == millions


def test_unknown_scale_is_refused():
    with pytest.raises(InputError, match="'b6' is unknown: choose one of b0, b1, b2, b3, b4, b5"):
        encoder_fields("b6")


def test_small_adapter_starts_near_nothing_and_learns():
    model = MotionAdapter(**SMALL)
    x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 9), minval=-1)
    variables = jax.jit(model.init)(jax.random.key(1), x)

    @jax.jit
    def loss(params):
        planes, _ = model.apply(
            {**variables, "params": params},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(2)},
        )
        return jnp.mean((planes - 1) ** 2), planes

    (_, planes), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert planes.shape == (1, 3, 16, 16, 16)
    assert 0 < np.abs(planes).mean() < 0.02
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_depthwise_is_the_grouped_convolution():
    x, k, g = (
        jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((2, 5, 7, 6), (3, 3, 1, 6), (2, 5, 7, 6)))
    )

    def both(f):
        value, pull = jax.vjp(f, x, k)
        return value, *pull(g)

    for a, b in zip(both(segformer.depthwise), both(segformer._grouped), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_grouped_queries_do_not_change_attention(monkeypatch):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, n, 3, 4)) for i, n in enumerate((11, 7, 7)))
    whole = segformer.attend(q, k, v)
    monkeypatch.setattr(segformer, "SCORES_AT_ONCE", 2 * 3 * 7 * 4)
    np.testing.assert_allclose(segformer.attend(q, k, v), whole, atol=1e-6)


def test_remat_changes_nothing():
    fields = dict(depths=(1,), widths=(8,), heads=(1,), reductions=(2,), drop_path=0.0)
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    plain, saving = MixTransformer(**fields), MixTransformer(**fields, remat=True)
    variables = jax.jit(plain.init)(jax.random.key(1), x)

    def gradient(model):
        return jax.jit(jax.grad(lambda v: sum((s**2).sum() for s in model.apply(v, x, train=True))))(variables)

    for a, b in zip(jax.tree.leaves(gradient(plain)), jax.tree.leaves(gradient(saving)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_planes_turn_image_axes_into_world_axes():
    x = jnp.arange(2 * 2 * 12, dtype=jnp.float32).reshape(1, 2, 2, 12)
    planes = to_planes(x)
    assert planes.shape == (1, 3, 2, 2, 4)
    np.testing.assert_array_equal(planes[0, 0], x[0, ::-1, :, :4])
    np.testing.assert_array_equal(planes[0, 1], x[0, ::-1, :, 4:8])
    np.testing.assert_array_equal(planes[0, 2], x[0, ::-1, ::-1, 8:])
    grid = to_planes(x, depth=2)
    assert grid.shape == (1, 3, 2, 2, 2, 2)
    np.testing.assert_array_equal(grid[0, 1, 1], x[0, ::-1, :, 5:8:2])


def test_full_size_shapes():
    x = jax.ShapeDtypeStruct((1, 512, 512, 9), jnp.float32)
    out, variables = jax.eval_shape(MotionAdapter().init_with_output, jax.random.key(0), x)
    assert out.shape == (1, 3, 256, 256, 32)
    assert sum(v.size for v in jax.tree.leaves(variables["params"])) == 5_705_694
