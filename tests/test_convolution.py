"""Winograd's filtering equals the plain convolution, and leaves everything else to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from r3p.models import convolution, layers

NHWC = ("NHWC", "HWIO", "NHWC")


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)


def relative(got, want):
    return np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 32, 32, 96, 96),
        (2, 17, 35, 96, 100),  # sides that are no multiples of a tile, more images than one
        (1, 16, 1030, 96, 96),  # more tiles in a row than go through at a time
        (1, 40, 120, 96, 96),  # the last strip reaches beyond the image
    ],
)
def test_winograd_equals_the_plain_convolution(shape):
    x, kernel = drawn(*shape[:4]), drawn(3, 3, *shape[3:], seed=1)
    exact = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(exact[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j] for i in range(3) for j in range(3))
    got = jax.jit(convolution.winograd)(x, kernel)
    assert got.shape == exact.shape and relative(got, exact) < 3e-6


def test_what_is_taken_by_winograd():
    """Wide convolutions of images that keep their size."""

    def taken(x, kernel, padding="SAME", strides=(1, 1), **options):
        function = functools.partial(
            convolution.conv_general_dilated, strides=strides, padding=padding, dimension_numbers=NHWC, **options
        )
        return "custom_jvp" in str(jax.make_jaxpr(function)(x, kernel))

    x, kernel = jnp.zeros((1, 32, 32, 96)), jnp.zeros((3, 3, 96, 128))
    assert taken(x, kernel) and taken(x, kernel, [(1, 1), (1, 1)], rhs_dilation=(1, 1), feature_group_count=1)
    assert not taken(x, kernel, "VALID")
    assert not taken(x, kernel, strides=(2, 2))
    assert not taken(x, kernel, rhs_dilation=(2, 2))
    assert not taken(x, jnp.zeros((3, 3, 96, 96)))
    assert not taken(x, jnp.zeros((3, 3, 96, 32)))
    assert not taken(x[..., :32], jnp.zeros((3, 3, 32, 512)))
    assert not taken(x, jnp.zeros((5, 5, 96, 128)))
    assert not taken(x[:, :8], kernel)
    assert not taken(x, jnp.zeros((3, 3, 1, 96)), feature_group_count=96)


def test_derivatives_are_those_of_the_plain_convolution():
    x, kernel, weigh = drawn(1, 16, 16, 96), drawn(3, 3, 96, 128, seed=1) / 30, drawn(1, 16, 16, 128, seed=2)

    def total(conv, x, kernel):
        return jnp.sum(jnp.sin(conv(x, kernel)) * weigh)

    def slope(conv, x, kernel):  # R1 differentiates a gradient again
        return jnp.sum(jax.grad(total, argnums=1)(conv, x, kernel) ** 2)

    for function in (total, slope):
        ours, theirs = (
            jax.jit(jax.grad(functools.partial(function, conv), argnums=(0, 1)))(x, kernel)
            for conv in (layers.conv, plain)
        )
        for got, want in zip(ours, theirs, strict=True):
            assert relative(got, np.asarray(want)) < 2e-5


def test_reduced_precision_is_rounded_once():
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (drawn(1, 16, 16, 96), drawn(3, 3, 96, 128, seed=1)))
    got = jax.jit(layers.conv)(x, kernel)
    assert got.dtype == jnp.bfloat16
    want = plain(x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert relative(got.astype(jnp.float32), np.asarray(want)) < 2.0**-8


def test_linen_layer_takes_it():
    layer = convolution.Conv(128, (3, 3))
    x, variables = (
        drawn(1, 16, 16, 96),
        {"params": {"kernel": drawn(3, 3, 96, 128, seed=1), "bias": drawn(128, seed=2)}},
    )
    want = plain(x, variables["params"]["kernel"]) + variables["params"]["bias"]
    assert relative(jax.jit(layer.apply)(variables, x), np.asarray(want)) < 3e-6


def test_enlarging_convolution_folded_equals_phases():
    x, kernel, weigh = drawn(2, 16, 20, 96), drawn(3, 3, 96, 128, seed=1) / 30, drawn(2, 32, 40, 128, seed=2)

    def total(conv, x, kernel):
        y = conv(x, kernel)
        return jnp.sum(jnp.sin(y) * weigh), y

    ours, theirs = (
        jax.jit(jax.grad(functools.partial(total, conv), argnums=(0, 1), has_aux=True))(x, kernel)
        for conv in (layers.conv_up2, layers._conv_up2_by_phases)
    )
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert relative(got, np.asarray(want)) < 1e-5
