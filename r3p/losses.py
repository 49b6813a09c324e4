"""Losses on images and masks: pure functions, float32, means over everything unless said otherwise."""

import jax
import jax.numpy as jnp

Array = jax.Array


def weighted_l1(prediction: Array, target: Array, weight: Array | None = None) -> Array:
    """Mean absolute error of [b, h, w, c], each pixel times `weight` [b, h, w, 1]; the weights keep a mean of 1."""
    error = jnp.abs(prediction - target)
    if weight is None:
        return error.mean()
    return (error * weight).mean() / jnp.maximum(weight.mean(), 1e-6)


def gradient_l1(prediction: Array, target: Array, weight: Array | None = None) -> Array:
    """`weighted_l1` of the horizontal and the vertical differences: what keeps edges sharp without a network."""
    total = jnp.zeros(())
    for axis in (1, 2):
        kept = None if weight is None else jax.lax.slice_in_dim(weight, 1, None, axis=axis)
        total += weighted_l1(jnp.diff(prediction, axis=axis), jnp.diff(target, axis=axis), kept)
    return total / 2


def mask_l1(prediction: Array, target: Array) -> Array:
    """Mean absolute error of masks in [0, 1], of any equal shapes."""
    return jnp.abs(prediction - target).mean()


def binary_entropy(weight: Array) -> Array:
    """Mean entropy in bits of ray weights in [0, 1] (official `weights_entropy_loss`): pushes fog to solid or empty."""
    weight = jnp.clip(weight, 1e-5, 1 - 1e-5)
    return -(weight * jnp.log2(weight) + (1 - weight) * jnp.log2(1 - weight)).mean()


def psnr(prediction: Array, target: Array) -> Array:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], over the whole batch."""
    return -10 * jnp.log10(jnp.maximum(jnp.mean(((prediction - target) / 2) ** 2), 1e-10))
