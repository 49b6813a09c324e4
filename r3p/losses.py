"""Losses on images, masks and motion: pure functions, float32, means over everything unless said otherwise.

Shapes: b batch, h w image, c channels, t frames.
"""

import jax
import jax.numpy as jnp
import numpy as np

from r3p import lpips
from r3p.errors import InputError
from r3p.fit import LIDS, LIPS

Array = jax.Array

MESH_POINTS = 468
# Of MediaPipe's mesh: upper lids between the corners, and outline points that no vertex of the face model stands for.
UPPER_LIDS = (157, 158, 159, 160, 161, 384, 385, 386, 387, 388)
UNMATCHED = (93, 127, 132, 234, 323, 356, 361, 454)


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


def masked_error(
    prediction: Array,
    target: Array,
    mask: Array,
    *,
    inside: float = 1.0,
    outside: float = 0.2,
    squared: bool = False,
    each: bool = False,
) -> Array:
    """Reconstruction error of the original's head and torso stages: little weight outside, outliers cut.

    Args:
      prediction, target: [b, h, w, c].
      mask: [b, h, w, 1], what matters: above 0.5.
      inside, outside: weights of the pixels in the mask and of all others. At one of three places the original's head
        stage has 0.6 and -0.2, because its mask is of integers there: nothing outside counts then.
      squared: squares instead of absolute values.
      each: quantiles of each image instead of the batch's; the same for a batch of one, and needs no collective.

    Returns:
      Mean over pixels of the error summed over channels. Errors above the batch's 80 % quantile, if that is over 0.5,
      count as that quantile and give no gradient; so do errors below 0, as 0.
    """
    error = prediction - target
    error = (error**2 if squared else jnp.abs(error)).sum(-1, keepdims=True) * jnp.where(mask > 0.5, inside, outside)
    quantile = jnp.quantile(error, 0.8, axis=(1, 2, 3) if each else None, keepdims=each)
    top = jax.lax.stop_gradient(jnp.maximum(quantile, 0.5))
    error = jnp.where(error > top, top, error)
    return jnp.where(error < 0, 0.0, error).mean()


def black_outside(image: Array, mask: Array) -> Array:
    """The image [b, h, w, c] in [-1, 1], black (-1) where `mask` [b, h, w, 1] is not above 0.5."""
    return jnp.where(mask > 0.5, image, -1.0)


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


# ---------------------------------------------------------------------------------------------------- motion
def frame_mean(values: Array, mask: Array) -> Array:
    """Mean of `values` [b, t, c] over the channels and the frames where `mask` [b, t] is 1."""
    return (values * mask[..., None]).sum() / (mask.sum() * values.shape[-1])


def frame_mse(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean squared error of sequences [b, t, c] in the frames of `mask` [b, t]."""
    return frame_mean((prediction - target) ** 2, mask)


def frame_mae(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean absolute error of sequences [b, t, c] in the frames of `mask` [b, t]."""
    return frame_mean(jnp.abs(prediction - target), mask)


def frame_power(sequence: Array, mask: Array) -> Array:
    """Mean square of a sequence [b, t, c] in the frames of `mask` [b, t]: keeps coefficients small."""
    return frame_mean(sequence**2, mask)


def frame_laplacian(sequence: Array, mask: Array, *, zero_ends: bool = False) -> Array:
    """Mean square of each frame [b, t, c] less the mean of its neighbours, in the frames of `mask` [b, t].

    Only frames between two others of the mask count. With `zero_ends`, as in the original, all do and zero stands
    beyond the array's ends, which pulls the first and the last frame towards zero.
    """
    if zero_ends:
        padded = jnp.pad(sequence, ((0, 0), (1, 1), (0, 0)))
        return frame_mean((sequence - (padded[:, :-2] + padded[:, 2:]) / 2) ** 2, mask)
    bent = sequence[:, 1:-1] - (sequence[:, :-2] + sequence[:, 2:]) / 2
    between = mask[:, :-2] * mask[:, 1:-1] * mask[:, 2:]
    return (bent**2 * between[..., None]).sum() / jnp.maximum(between.sum() * sequence.shape[-1], 1)


def frame_velocity(sequence: Array, mask: Array) -> Array:
    """Mean absolute change of a sequence [b, t, c] from the frame before, 0 for the first, where `mask` [b, t] is 1."""
    change = jnp.abs(jnp.diff(sequence, axis=1))
    return frame_mean(jnp.pad(change, ((0, 0), (1, 0), (0, 0))), mask)


def landmark_weights() -> np.ndarray:
    """[468] float32: 20 for upper lids, 5 for lips, 3 for the other lid points, 0 for unmatched points, otherwise 1."""
    weights = np.ones(MESH_POINTS, np.float32)
    for points, weight in ((LIDS, 3), (UPPER_LIDS, 20), (LIPS, 5), (UNMATCHED, 0)):
        weights[list(points)] = weight
    return weights


def landmark_mse(prediction: Array, target: Array, mask: Array) -> Array:
    """Weighted mean squared error of the mesh's 468 landmarks in the frames of `mask` [b, t].

    prediction, target: [b, t, 1404], point by point in (x, y, z). Weights: see `landmark_weights`.

    Raises:
      InputError: at trace time, for another number of coordinates.
    """
    if prediction.shape != target.shape or prediction.shape[-1] != 3 * MESH_POINTS:
        raise InputError(
            f"landmarks of shapes {prediction.shape} and {target.shape}: give two of [b, t, {3 * MESH_POINTS}], "
            f"{MESH_POINTS} points of the mesh with three coordinates each"
        )
    return frame_mean((prediction - target) ** 2 * np.repeat(landmark_weights(), 3), mask)
