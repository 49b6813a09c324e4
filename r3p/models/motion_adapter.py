"""The motion adapter: PNCC images to a residual of the tri-planes (Real3D-Portrait, section 3.2)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from r3p.models.segformer import SegFormerPlanes

Array = jax.Array


class MotionAdapter(nn.Module):
    """PNCC of the canonical, the source and the target face -> motion diff-planes.

    The defaults are the released model (MiT-b0 on 512^2 images, planes of 256^2). `upsample` over the encoder's first
    `stride` is the size of the planes over that of the images.

    Attributes:
      mixed: channels after the first layer, which mixes the images pixel by pixel.
      channels, depth, encoder, width, upsample, dropout, out_scale: see `SegFormerPlanes`.
    """

    channels: int = 32
    depth: int = 1
    mixed: int = 3
    encoder: Mapping[str, Any] = FrozenDict()
    width: int = 256
    upsample: int = 2
    dropout: float = 0.1
    out_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pncc: Array, *, train: bool = False) -> Array:
        """Planes for the images in [-1, 1].

        Args:
          pncc: [b, h, w, 9], canonical, source, target along the channels (6 channels: canonical and target).
          train: batch statistics, dropout and drop path (rng `dropout`).

        Returns:
          [b, 3, (d,) h', w', c].
        """
        c = pncc.shape[-1]
        kernel = self.param("mix_kernel", nn.initializers.normal(1.0), (1, 1, c, self.mixed))  # equalised learning rate
        bias = self.param("mix_bias", nn.initializers.zeros, (self.mixed,))
        x = pncc.astype(self.dtype) @ (kernel[0, 0] / c**0.5).astype(self.dtype) + bias.astype(self.dtype)
        planes = SegFormerPlanes(
            self.channels,
            self.depth,
            self.encoder,
            self.width,
            self.upsample,
            self.dropout,
            self.out_scale,
            self.dtype,
            name="planes",
        )
        return planes(x, train=train)
