"""The dual discriminator of EG3D and its gradient penalty.

Sources: EG3D (Chan et al., CVPR 2022), section 4.3; StyleGAN2 (Karras et al., CVPR 2020) for the residual network;
progressive GAN (Karras et al., ICLR 2018) for the batch's deviation; Mescheder et al. (ICML 2018) for R1.
Shapes: b batch, h height, w width, c channels, k cameras' numbers (25).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from r3p.errors import InputError
from r3p.models import layers
from r3p.models.stylegan import EqualisedConv, Mapping

Array = jax.Array

# Spread of the training set's cameras, which stands in for the batch's where an image is alone: camera-to-world 4x4,
# then intrinsics 3x3. Read off the recorded case of one image.
CAMERA_SPREAD = np.array(
    [
        *(0.0664, 0.0295, 0.2720, 0.6971),
        *(0.0279, 0.0178, 0.1280, 0.3284),
        *(0.2721, 0.1274, 0.0679, 0.1642),
        *(0.0, 0.0, 0.0, 0.0),
        *(0.0079, 0.0, 0.0),
        *(0.0, 0.0079, 0.0),
        *(0.0, 0.0, 0.0),
    ],
    np.float32,
)


def blur_camera(camera: Array, noise: Array) -> Array:
    """Cameras [b, 25] plus standard normal `noise` [b, 25] in units of their spread over the batch."""
    spread = CAMERA_SPREAD if len(camera) == 1 else jnp.std(camera, axis=0, ddof=1)
    return camera + noise * spread


def append_deviation(x: Array, group: int = 2) -> Array:
    """Appends a channel with the mean deviation of activations within a group: [b, h, w, c] -> [b, h, w, c + 1].

    Groups are images b / group apart; a batch smaller than `group` is one group.
    """
    b, h, w, c = x.shape
    group = min(group, b)
    if b % group:
        raise InputError(f"a batch of {b} does not split into groups of {group}: take a multiple of {group}, or one")
    y = x.reshape(group, b // group, h, w, c)
    variance = jnp.mean(jnp.square(y - y.mean(0)), axis=0)
    # The small number also keeps both derivatives of the root finite where an image is alone in its group.
    deviation = jnp.sqrt(variance + 1e-8).mean((1, 2, 3))
    deviation = jnp.broadcast_to(jnp.tile(deviation, group)[:, None, None, None], (b, h, w, 1))
    return jnp.concatenate([x, deviation], axis=-1)


class DiscriminatorBlock(nn.Module):
    """Residual block to half the size: [b, 2h, 2w, c] -> [b, h, w, features]; both branches are scaled by sqrt 1/2."""

    features: int
    clamp: float | None = 256.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        same: dict[str, Any] = {"clamp": self.clamp, "dtype": self.dtype}
        skip = EqualisedConv(self.features, 1, 2, math.sqrt(0.5), linear=True, dtype=self.dtype, name="skip")(x)
        x = EqualisedConv(x.shape[-1], **same, name="conv0")(x)
        return skip + EqualisedConv(self.features, down=2, gain=1.0, **same, name="conv1")(x)


class Discriminator(nn.Module):
    """How real an image, the raw image that it was made from, and their camera look together.

    Attributes:
      widths: channels at the image's resolution, at half of it and so on down to 4x4.
      mapping_depth, mapping_width: dense layers of the camera, and their width.
      group: images whose deviation is looked at together; the batch is 1 or a multiple of it.
      clamp: largest activation.
      camera_noise: scale of the noise on cameras.
      dtype: of the blocks; the last one, at 4x4, is float32.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512, 512)
    mapping_depth: int = 8
    mapping_width: int = 512
    group: int = 2
    clamp: float | None = 256.0
    camera_noise: float = 1.0
    dtype: Any = jnp.float32

    @property
    def resolution(self) -> int:
        """Side of the image in pixels."""
        return 4 * 2 ** (len(self.widths) - 1)

    @nn.compact
    def __call__(self, image: Array, raw: Array, camera: Array, noise: Array | None = None) -> Array:
        """Judges a batch.

        Args:
          image: [b, resolution, resolution, 3] in [-1, 1].
          raw: [b, h, w, 3], the image before super-resolution, of any size.
          camera: [b, 25].
          noise: [b, 25], standard normal: blurs the camera by its spread, lest the discriminator should learn to read
            poses alone. The original always does; None leaves it out.

        Returns:
          Logits [b, 1], larger for what looks real.
        """
        side = self.resolution
        if image.shape[1:3] != (side, side):
            raise InputError(
                f"a discriminator of {len(self.widths)} widths takes {side}x{side} images, got "
                f"{image.shape[1]}x{image.shape[2]}: resize them or change its widths"
            )
        x = jnp.concatenate([image, layers.resize(raw, (side, side), antialias=True)], axis=-1)
        x = jnp.clip(x, -1, 1)
        x = EqualisedConv(self.widths[0], 1, clamp=self.clamp, dtype=self.dtype, name="from_rgb")(x)
        for i, width in enumerate(self.widths[1:]):
            with jax.named_scope(f"block{side >> i}"):
                x = DiscriminatorBlock(width, self.clamp, self.dtype, name=f"block{side >> i}")(x)

        x = append_deviation(x.astype(jnp.float32), self.group)
        x = EqualisedConv(self.widths[-1], clamp=self.clamp, name="conv")(x)
        x = layers.bias_act(layers.EqualisedDense(self.widths[-1], name="hidden")(x.reshape(len(x), -1)))
        x = layers.EqualisedDense(self.mapping_width, name="out")(x)

        if noise is not None and self.camera_noise > 0:
            camera = blur_camera(camera, noise * self.camera_noise)
        wanted = Mapping(self.mapping_depth, self.mapping_width, name="mapping")(None, camera)
        return jnp.sum(x * wanted, axis=-1, keepdims=True) / math.sqrt(self.mapping_width)


def gradient_penalty(discriminate: Callable[[Array, Array], Array], image: Array, raw: Array) -> Array:
    """R1 of real images: half the squared gradient of the logits by image and raw image, mean over the batch.

    `discriminate` maps image [b, h, w, 3] and raw image to logits [b, 1]; differentiate the penalty by what it closes
    over. How often the penalty is taken and its weight belong to the training stage.
    """
    gradients = jax.grad(lambda *images: jnp.sum(discriminate(*images)), argnums=(0, 1))(image, raw)
    return (jnp.sum(jnp.square(gradients[0])) + jnp.sum(jnp.square(gradients[1]))) / (2 * len(image))
