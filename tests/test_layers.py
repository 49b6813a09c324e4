"""Layer operations against recorded values of the official code, closed forms and invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from jax.test_util import check_grads

from r3p.errors import InputError
from r3p.models import layers, torso
from r3p.models.discriminator import append_deviation
from r3p.parity.layouts import channels_first, channels_last

grid_sample = jax.jit(layers.grid_sample, static_argnames=("padding", "align_corners"))
modulated_conv = jax.jit(layers.modulated_conv, static_argnums=(3, 4))
conv3d = jax.jit(layers.conv3d)


@pytest.fixture(scope="module")
def ops():
    case = parity.FOLDER.case("ops")
    return case.inputs, functools.partial(parity.check, case)


def _hwio(kernel):
    return kernel.transpose(2, 3, 1, 0)


def test_stylegan_operations_match(ops):
    i, check = ops
    x, kernel = channels_last(i["x"]), _hwio(i["w3"])
    check("upsample2d", channels_first(layers.upsample2d(x)))
    check("downsample2d", channels_first(layers.downsample2d(x)))
    for way in (layers.conv_down2, layers._conv_down2_strided, layers._conv_down2_by_phases):
        check("conv_down2_k3", channels_first(way(x, kernel)))
    check("conv_down2_k1", channels_first(layers.conv(layers.downsample2d(x), _hwio(i["w1"]))))
    check("normalize_2nd_moment", layers.normalise_second_moment(i["z"]))
    check("minibatch_std_g2", channels_first(append_deviation(channels_last(i["mb"]))))
    check("minibatch_std_n1", channels_first(append_deviation(channels_last(i["mb"][:1]))))
    for up in (1, 2):
        for demodulate in (True, False):
            y = modulated_conv(x, kernel, i["styles"], up, demodulate) + i["noise"][: 16 * up, : 16 * up, None]
            check(f"modconv_up{up}_demod{int(demodulate)}_fused1", channels_first(y))
    check("conv_up2_k3", channels_first(modulated_conv(x, kernel, jnp.ones(4), 2, False)))
    check("conv_up2_k3_flip", channels_first(modulated_conv(x, kernel[::-1, ::-1], jnp.ones(4), 2, False)))
    y = layers.conv(x, kernel)
    check("bias_act_lrelu", channels_first(layers.bias_act(y, i["b6"])))
    check("bias_act_lrelu_gain_clamp", channels_first(layers.bias_act(y, i["b6"], gain=2.0, clamp=5.0)))
    check("bias_act_linear_clamp", channels_first(layers.bias_act(y, i["b6"], gain=1.0, clamp=3.0, slope=1.0)))


def test_resizing_matches(ops):
    i, check = ops
    image = channels_last(i["img"])
    for h, w in ((16, 16), (25, 19), (96, 100), (24, 20)):
        for antialias in (True, False):
            value = layers.resize(image, (h, w), antialias=antialias)
            check(f"bilinear_{h}x{w}_aa{int(antialias)}", channels_first(value))
    check("upsampling_bilinear2d_x2", channels_first(layers.resize(image, (96, 80), align_corners=True)))
    check("upsample_nearest_2x2", channels_first(layers.upsample_nearest(image)))
    check("upsample_nearest_3d", channels_first(layers.upsample_nearest(channels_last(i["vol"]))))


def test_sampling_and_dilation_match(ops):
    i, check = ops
    volume = channels_last(i["vol"])
    check("grid2_zeros_ac0", channels_first(grid_sample(channels_last(i["x"]), i["grid2"])))
    check("grid3_zeros_ac0", channels_first(grid_sample(volume, i["grid3"])))
    check("grid3_zeros_ac1", channels_first(grid_sample(volume, i["grid3"], align_corners=True)))
    border = grid_sample(volume, i["grid3"], padding="border", align_corners=True)
    check("grid3_border_ac1", channels_first(border))
    check("dilate7", channels_first(layers.dilate(channels_last(i["m"]), 7)))


def test_motion_operations_match(ops):
    i, check = ops
    volume = channels_last(i["vol"])[:1]
    check("coordinate_grid_3d", torso.coordinate_grid((4, 5, 6)))
    check("gaussian_3d", torso.gaussians(i["kp"], (4, 8, 10)))
    check("heatmap", torso.heatmaps(i["kp"], i["kp2"], (4, 8, 10))[:, :, None])
    check("deformed_source", np.moveaxis(torso.shifted_volumes(volume, i["kp"], i["kp2"]), -1, 2))


def test_sampling_gradients_match_finite_differences():
    key = jax.random.split(jax.random.key(0), 3)
    volume = jax.random.normal(key[0], (2, 3, 4, 5, 2))
    grid = jax.random.uniform(key[1], (2, 7, 3), minval=-1.2, maxval=1.2)
    cotangent = jax.random.normal(key[2], (2, 7, 2))

    for padding in ("zeros", "border"):

        def value(volume, grid, padding=padding):
            return jnp.sum(grid_sample(volume, grid, padding=padding, align_corners=True) * cotangent)

        check_grads(jax.jit(value), (volume, grid), order=1, modes=["rev"], eps=1e-3, atol=2e-2, rtol=2e-2)


def test_modulation_of_kernel_and_of_activations_agree():
    key = jax.random.split(jax.random.key(1), 3)
    x, kernel = jax.random.normal(key[0], (2, 8, 8, 5)), jax.random.normal(key[1], (3, 3, 5, 6))
    styles = jax.random.normal(key[2], (5,)) + 1
    for up in (1, 2):
        shared = modulated_conv(x, kernel, styles, up)
        each = modulated_conv(x, kernel, jnp.tile(styles, (2, 1)), up)
        np.testing.assert_allclose(shared, each, atol=2e-5)


@pytest.mark.parametrize(("c", "o", "k"), [(3, 5, 3), (6, 2, 7), (4, 4, 1)])
def test_convolution_of_volumes_by_slices(c, o, k):
    key = jax.random.split(jax.random.key(2), 2)
    x, kernel = jax.random.normal(key[0], (2, 5, 6, 7, c)), jax.random.normal(key[1], (k, k, k, c, o))
    want = layers.conv(x, kernel)
    np.testing.assert_allclose(jax.jit(layers.conv3d_by_slices)(x, kernel), want, atol=1e-4)
    np.testing.assert_allclose(conv3d(x, kernel), want, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 4, 9])
def test_convolution_of_a_repeated_image(depth):
    key = jax.random.split(jax.random.key(3), 2)
    image, kernel = jax.random.normal(key[0], (2, 6, 6, 3)), jax.random.normal(key[1], (7, 7, 7, 3, 2))
    volume = jnp.broadcast_to(image[:, None], (2, depth, 6, 6, 3))
    np.testing.assert_allclose(
        jax.jit(layers.conv3d_of_repeated, static_argnums=2)(image, kernel, depth), conv3d(volume, kernel), atol=2e-4
    )


def test_resize_keeps_constants_and_refuses_nonsense():
    ones = jnp.ones((1, 9, 7, 2))
    for options in ({}, {"align_corners": True}, {"antialias": True}):
        np.testing.assert_allclose(layers.resize(ones, (4, 13), **options), 1, atol=1e-6)
    with pytest.raises(InputError, match="align_corners"):
        layers.resize(ones, (4, 4), align_corners=True, antialias=True)
    with pytest.raises(InputError, match="coordinates"):
        layers.grid_sample(ones, jnp.zeros((1, 3, 3)))
