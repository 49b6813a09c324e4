"""Deep3DFaceRecon's regressor (Deng et al. 2019, arXiv:1903.08527): a ResNet-50 and seven linear heads.

Shapes: b faces, h w, c channels.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from r3p.models.layers import centred_conv
from r3p.models.norms import BatchNorm

Array = jax.Array
SIDE = 224  # pixels of an aligned face
# Identity, expression, texture, angles, light, shift, depth: the 257 coefficients in their order.
HEADS = (80, 64, 80, 3, 27, 2, 1)


class Bottleneck(nn.Module):
    """[b, h, w, c] -> [b, h / stride, w / stride, 4 width] (He et al. 2016); the 3x3 convolution strides."""

    width: int
    stride: int = 1
    down: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(BatchNorm(name="bn1")(centred_conv(self.width, 1, 1, "conv1")(x)))
        y = nn.relu(BatchNorm(name="bn2")(centred_conv(self.width, 3, self.stride, "conv2")(y)))
        y = BatchNorm(name="bn3")(centred_conv(4 * self.width, 1, 1, "conv3")(y))
        if self.down:
            x = BatchNorm(name="down_bn")(centred_conv(4 * self.width, 1, self.stride, "down")(x))
        return nn.relu(x + y)


class Deep3D(nn.Module):
    """Aligned faces [b, 224, 224, 3], RGB in [0, 1] -> coefficients [b, sum(heads)].

    Attributes:
      depths: blocks of the stages.
      stem, widths: channels; a stage's output has four times its width.
      heads: coefficients of each head.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    stem: int = 64
    widths: Sequence[int] = (64, 128, 256, 512)
    heads: Sequence[int] = HEADS

    @nn.compact
    def __call__(self, faces: Array) -> Array:
        x = nn.relu(BatchNorm(name="bn1")(centred_conv(self.stem, 7, 2, "conv1")(faces)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for j in range(depth):
                x = Bottleneck(width, 2 if i and not j else 1, j == 0, name=f"layer{i + 1}_{j}")(x)
        x = x.mean((1, 2))
        return jnp.concatenate(
            [nn.Dense(n, precision="highest", name=f"head{k}")(x) for k, n in enumerate(self.heads)], -1
        )
