import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r3p.errors import InputError
from r3p.models import segformer
from r3p.models.motion_adapter import MotionAdapter
from r3p.models.planes import to_planes
from r3p.models.segformer import MixTransformer, SegFormerPlanes, encoder_fields

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


@pytest.mark.parametrize(
    "scale, millions", [("b0", 5.71), ("b1", 15.67), ("b2", 26.71), ("b3", 46.59), ("b4", 63.36), ("b5", 83.96)]
)
def test_published_scales(scale, millions):
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    model = SegFormerPlanes(encoder=encoder_fields(scale))
    planes, wanted = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert planes.shape == (1, 3, 256, 256, 32)
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
