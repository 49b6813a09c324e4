"""ArcFace's residual network for face identity (Deng et al. 2019, arXiv:1801.07698; IResNet-18 to -100).

Blocks normalise before the first convolution and have PReLU and no activation at their end. Shapes: b faces, h w, c.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from r3p.models.layers import centred_conv
from r3p.models.norms import BatchNorm

Array = jax.Array
SIDE = 112  # pixels of an aligned face
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}


class PReLU(nn.Module):
    """max(x, 0) + slope min(x, 0), a slope for each channel."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.maximum(x, 0) + slope * jnp.minimum(x, 0)


class Block(nn.Module):
    """[b, h, w, c] -> [b, h / stride, w / stride, features]; `down`: the shortcut has a convolution."""

    features: int
    stride: int = 1
    down: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = BatchNorm(name="bn1")(x)
        y = centred_conv(self.features, 3, 1, "conv1")(y)
        y = PReLU(name="prelu")(BatchNorm(name="bn2")(y))
        y = BatchNorm(name="bn3")(centred_conv(self.features, 3, self.stride, "conv2")(y))
        if self.down:
            x = BatchNorm(name="down_bn")(centred_conv(self.features, 1, self.stride, "down")(x))
        return x + y


class ArcFace(nn.Module):
    """Faces [b, 112, 112, 3], RGB in [-1, 1] -> embeddings [b, embedding], not normalised.

    Attributes:
      depths: blocks of the stages; every stage halves the picture.
      stem, widths: channels.
      embedding: numbers of a face.
    """

    depths: Sequence[int] = DEPTHS[50]
    stem: int = 64
    widths: Sequence[int] = (64, 128, 256, 512)
    embedding: int = 512

    @nn.compact
    def __call__(self, faces: Array) -> Array:
        x = centred_conv(self.stem, 3, 1, "conv1")(faces)
        x = PReLU(name="prelu")(BatchNorm(name="bn1")(x))
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for j in range(depth):
                x = Block(width, 1 if j else 2, j == 0, name=f"layer{i + 1}_{j}")(x)
        x = BatchNorm(name="bn2")(x)
        x = nn.Dense(self.embedding, precision="highest", name="fc")(x.reshape(len(x), -1))
        return BatchNorm(name="features")(x)
