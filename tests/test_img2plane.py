import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r3p.errors import InputError
from r3p.models.img2plane import BACKBONE_BLOCKS, ImageToPlanes, pixel_shuffle

SMALL = dict(
    channels=16,
    resnet=dict(widths=(16, 24, 32, 48), blocks=(1, 1, 1, 1)),
    pooling=dict(width=32, rates=(2, 4, 6)),
    low=dict(width=96, blocks=2, convs=(48, 48), features=32),
    high=dict(stem=16, width=32),
    fusion=dict(before=(64, 48), width=64, after=(64, 48, 48)),
)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def test_small_trains():
    model = ImageToPlanes(**SMALL)
    image = jax.random.uniform(jax.random.key(0), (2, 64, 64, 3), minval=-1)
    variables = jax.jit(model.init)(jax.random.key(1), image)

    @functools.partial(jax.jit)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        planes, updated = model.apply(
            {**variables, "params": params},
            image,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(2)},
        )
        return jnp.mean(planes**2), (planes, updated)

    (_, (planes, updated)), grads = loss(variables["params"])
    assert planes.shape == (2, 3, 32, 32, 16) and planes.dtype == jnp.float32
    assert 0.05 < np.std(planes) < 20
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    moved = jax.tree.map(lambda a, b: bool((a != b).all()), updated["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("scale, millions", [("small", 62.07), ("standard", 87.33), ("large", 154.67)])
def test_full_sizes(scale, millions):
    low, fusing = BACKBONE_BLOCKS[scale]
    model = ImageToPlanes(low=dict(blocks=low), fusion=dict(blocks=fusing))
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    planes, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert planes.shape == (1, 3, 256, 256, 32)
    assert round(sum(v.size for v in jax.tree.leaves(variables["params"])) / 1e6, 2) == millions


@pytest.mark.parametrize("mode, extra", [("rgb", 0), ("rgb_alpha", 1), ("rgb_camera", 3), ("rgb_alpha_camera", 4)])
def test_input_modes(mode, extra):
    model = ImageToPlanes(**SMALL, input_mode=mode)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    camera = jax.ShapeDtypeStruct((1, 25), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image, None, camera)
    assert variables["params"]["high_encoder"]["stem"]["conv"]["kernel"].shape[2] == 5 + extra


def test_trigrid_shape():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    planes, _ = jax.eval_shape(ImageToPlanes(**SMALL, depth=3).init_with_output, jax.random.key(0), image)
    assert planes.shape == (1, 3, 3, 16, 16, 16)


def test_pixel_shuffle_order():
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)
    np.testing.assert_array_equal(pixel_shuffle(x)[0, :, :, 1], [[4, 5], [6, 7]])


def test_misuse_is_named():
    key = jax.random.key(0)
    with pytest.raises(InputError, match="multiple of 32"):
        jax.eval_shape(ImageToPlanes(**SMALL).init, key, jnp.zeros((1, 48, 48, 3)))
    with pytest.raises(InputError, match="needs the camera"):
        jax.eval_shape(ImageToPlanes(**SMALL, input_mode="rgb_camera").init, key, jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(InputError, match="unknown"):
        jax.eval_shape(ImageToPlanes(**SMALL, input_mode="grey").init, key, jnp.zeros((1, 32, 32, 3)))
