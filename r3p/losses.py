"""Losses on images and masks: pure functions, float32, means over everything unless said otherwise."""

import jax
import jax.numpy as jnp

from r3p import lpips

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


def patch_lpips(
    params: lpips.Params, prediction: Array, target: Array, keypoints: Array, rng: Array, *, size: int = 64
) -> Array:
    """LPIPS of one patch of the face in each image: a patch a step costs a fraction of the whole and means the same.

    Args:
      params: from `r3p.lpips.load`; its first three stages are used, those of fine detail.
      prediction, target: [b, h, w, 3] in [-1, 1], sides of at least `size`.
      keypoints: [b, 68, 3] of the target in [-1, 1]; patches are centred within what they span.
      rng: of the patches' places.
      size: of the patches, pixels.
    """
    b, h, w, _ = prediction.shape
    spread = jax.random.uniform(rng, (b, 2))
    low, high = keypoints[..., :2].min(1), keypoints[..., :2].max(1)
    centre = (low + spread * (high - low) + 1) / 2 * jnp.array([w, h])
    corner = jnp.clip(jnp.round(centre - size / 2).astype(jnp.int32), 0, jnp.array([w, h]) - size)

    def cut(image: Array, at: Array) -> Array:
        return jax.lax.dynamic_slice(image, (at[1], at[0], 0), (size, size, 3))

    patches = (jax.vmap(cut)(image, corner) for image in (prediction, target))
    return lpips.lpips(params, *patches, stages=3).mean()


def psnr(prediction: Array, target: Array) -> Array:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], over the whole batch."""
    return -10 * jnp.log10(jnp.maximum(jnp.mean(((prediction - target) / 2) ** 2), 1e-10))
