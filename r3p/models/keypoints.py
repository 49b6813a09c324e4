"""Key points that a network finds by itself: a detector, and the equivariance that teaches it to be consistent.

After the first order motion model (Siarohin et al. 2019) and face-vid2vid (Wang et al. 2021), without their Jacobians:
a key point moves what is near it by a translation, as the landmarks of the torso model do. This is the ablation
"unsupervised key points" of Real3D-Portrait; the default projects known landmarks instead.

Shapes: b images, h w, c channels, k key points. Positions are (x, y[, z]) in [-1, 1], the outermost pixels' centres at
-1 and 1, as in `r3p.models.torso`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from r3p.errors import InputError
from r3p.models import layers
from r3p.models.blocks import Conv, ConvBlock, halve

Array = jax.Array


def soft_argmax(heat: Array, temperature: float) -> Array:
    """Mean positions [b, k, 2] under the softmax of `heat` [b, h, w, k] / `temperature` over all pixels."""
    b, h, w, k = heat.shape
    heat = heat.astype(jnp.float32).reshape(b, h * w, k) / temperature
    weights = nn.softmax(heat, axis=1).reshape(b, h, w, k)
    x = weights.sum(1) * jnp.linspace(-1.0, 1.0, w)[:, None]
    y = weights.sum(2) * jnp.linspace(-1.0, 1.0, h)[:, None]
    return jnp.stack([x.sum(1), y.sum(1)], axis=-1)


class KeypointDetector(nn.Module):
    """Image to key points: [b, h, w, 3] in [-1, 1] -> [b, keypoints, 3], z = 0.

    An hourglass with joined levels (the defaults are the first order motion model's) on the shrunken image, a map a
    point, the map's mean position.

    Attributes:
      keypoints: how many.
      resolution: side to which images are shrunk; a multiple of 2 to the number of widths.
      widths: channels of the levels on the way down, each of half the side.
      last_width: channels of the last level on the way up.
      kernel_size: of the maps' convolution.
      temperature: of the maps' softmax; small ones put a point on the map's largest value.
    """

    keypoints: int = 15
    resolution: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    last_width: int = 32
    kernel_size: int = 7
    temperature: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array, *, train: bool = False) -> Array:
        smallest = 2 ** len(self.widths)
        if self.resolution % smallest or image.ndim != 4 or image.shape[-1] != 3:
            raise InputError(
                f"the key point detector got {image.shape} at resolution {self.resolution}: expected [b, h, w, 3] and "
                f"a multiple of {smallest}"
            )
        x = layers.resize(image, (self.resolution, self.resolution), antialias=True)
        levels = [x]
        for i, width in enumerate(self.widths):
            levels.append(halve(ConvBlock(width, dtype=self.dtype, name=f"down{i}")(levels[-1], train=train)))
        x = levels.pop()
        for i, width in enumerate((*self.widths[-2::-1], self.last_width)):
            x = ConvBlock(width, dtype=self.dtype, name=f"up{i}")(layers.upsample_nearest(x), train=train)
            x = jnp.concatenate([x, levels.pop().astype(x.dtype)], axis=-1)
        heat = Conv(self.keypoints, self.kernel_size, dtype=self.dtype, name="heat")(x)
        points = soft_argmax(heat, self.temperature)
        return jnp.pad(points, ((0, 0), (0, 0), (0, 1)))


# ------------------------------------------------------------------------------------------------ equivariance
class Warp(NamedTuple):
    """A smooth map of the plane, T(p) = A p + t + sum over control points q of weight_q r^2 log r, r = |p - q|.

    affine [b, 2, 3] is A and t; bend [b, q, 2] the weights of a square grid of control points over [-1, 1]^2.
    """

    affine: Array
    bend: Array


def warp_of(affine_noise: Array, bend_noise: Array, *, affine: float = 0.05, bend: float = 0.005) -> Warp:
    """A random warp near the identity of standard normals [b, 2, 3] and [b, q, 2], q a square number such as 25."""
    return Warp(jnp.eye(2, 3) + affine * affine_noise, bend * bend_noise)


def warp_points(warp: Warp, points: Array) -> Array:
    """T(p) for positions [b, n, 2]."""
    axis = jnp.linspace(-1.0, 1.0, round(warp.bend.shape[1] ** 0.5))
    control = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    square = jnp.sum((points[:, :, None] - control) ** 2, -1)
    spline = 0.5 * square * jnp.log(square + 1e-9)  # r^2 log r, finite and flat at r = 0
    exact = lax.Precision.HIGHEST
    moved = jnp.einsum("bij,bnj->bni", warp.affine[..., :2], points, precision=exact) + warp.affine[:, None, :, 2]
    return moved + jnp.einsum("bnq,bqi->bni", spline, warp.bend, precision=exact)


def warp_images(warp: Warp, images: Array) -> Array:
    """Images [b, h, w, c] read at T(p) for every pixel p; edges go on beyond the frame."""
    b, h, w, _ = images.shape
    grid = jnp.stack(jnp.meshgrid(jnp.linspace(-1.0, 1.0, w), jnp.linspace(-1.0, 1.0, h)), axis=-1)
    places = warp_points(warp, jnp.broadcast_to(grid.reshape(1, h * w, 2), (b, h * w, 2)))
    return layers.grid_sample(images, places.reshape(b, h, w, 2), padding="border", align_corners=True)


def equivariance_loss(detect: Callable[[Array], Array], images: Array, warp: Warp) -> Array:
    """Mean distance (L1, over coordinates) of key points and those of the warped images brought back.

    What is at p in the warped image is at T(p) in the image, so the key points have to say the same (equation 11 of the
    first order motion model, without its Jacobians).

    Args:
      detect: images [b, h, w, 3] to key points [b, k, 2 or 3].
      images: [b, h, w, 3].
      warp: of each of them.
    """
    points, warped = detect(images)[..., :2], detect(warp_images(warp, images))[..., :2]
    return jnp.abs(points - warp_points(warp, warped)).mean()
