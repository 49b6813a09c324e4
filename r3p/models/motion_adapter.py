"""The motion adapter: PNCC images to a residual of the tri-planes (Real3D-Portrait, section 3.2)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from r3p.errors import InputError
from r3p.models.segformer import SegFormerPlanes

Array = jax.Array


def _differences(contrast: float) -> nn.initializers.Initializer:
    """Initial kernel [1, 1, 9, 9] from (canonical, source, target) to (target, target - canonical, target - source)."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        if shape != (1, 1, 9, 9):
            raise InputError(
                f"an adapter with contrast mixes 9 channels to 9, not {shape[2]} to {shape[3]}: mend `mixed`"
            )
        parts = np.array([[0, -contrast, 0], [0, 0, -contrast], [1, contrast, contrast]])  # [image in, image out]
        return jnp.asarray(np.kron(parts, np.eye(3)) * shape[2] ** 0.5, dtype)[None, None]

    return init


class MotionAdapter(nn.Module):
    """PNCC of the canonical, the source and the target face -> motion diff-planes.

    The defaults are the released model (MiT-b0 on 512^2 images, planes of 256^2). `upsample` over the encoder's first
    `stride` is the size of the planes over that of the images.

    Attributes:
      mixed: channels after the first layer, which mixes the images pixel by pixel.
      contrast: 0 starts that layer at random, as released. Otherwise it starts as the target's code beside that code
        less the canonical and less the source one, times this: lips move by few pixels, so their codes by little.
      channels, depth, encoder, width, upsample, dropout, out_scale: see `SegFormerPlanes`.
    """

    channels: int = 32
    depth: int = 1
    mixed: int = 3
    contrast: float = 0.0
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
        init = _differences(self.contrast) if self.contrast else nn.initializers.normal(1.0)
        kernel = self.param("mix_kernel", init, (1, 1, c, self.mixed))  # equalised learning rate
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
