"""Parts of StyleGAN2 that generator, super-resolution and discriminator share, and its synthesis network.

Sources: StyleGAN2 (Karras et al., CVPR 2020), sections 2 and 4; StyleGAN2-ADA (Karras et al., NeurIPS 2020) for
conditioning; EG3D (Chan et al., CVPR 2022), section 4.2, for what the image channels of the synthesis network are.
Shapes: b batch, h height, w width, c channels, s the style's width, n styles, o channels of the image.
"""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from r3p.errors import InputError
from r3p.models import layers

Array = jax.Array
Noise = Literal["none", "constant", "random"]


class Mapping(nn.Module):
    """Latents and a condition to a style: both of unit second moment, side by side, through `depth` dense layers.

    Args of the call: z [b, z] or None, condition [b, k] or None, not both None. Returns [b, width].
    """

    depth: int
    width: int = 512
    learning_rate: float = 0.01

    @nn.compact
    def __call__(self, z: Array | None, condition: Array | None) -> Array:
        parts = [] if z is None else [z]
        if condition is not None:
            parts.append(layers.EqualisedDense(self.width, name="embed")(condition))
        x = jnp.concatenate([layers.normalise_second_moment(part) for part in parts], axis=-1)
        for i in range(self.depth):
            x = layers.bias_act(layers.EqualisedDense(self.width, self.learning_rate, name=f"dense{i}")(x))
        return x


class EqualisedConv(nn.Module):
    """Convolution with an equalised learning rate, bias, leaky ReLU: [b, h, w, c] -> [b, h / down, w / down, features].

    Attributes:
      kernel_size: 1 or 3.
      down: 1, or 2 for the binomial filter before a convolution of stride 2.
      gain: of the activation.
      clamp: largest output at a gain of sqrt 2; another gain scales it as well.
      linear: neither bias, activation nor clamp; the gain remains, and should then be given.
    """

    features: int
    kernel_size: int = 3
    down: int = 1
    gain: float = layers.SQRT2
    clamp: float | None = None
    linear: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k, c = self.kernel_size, x.shape[-1]
        kernel = self.param("kernel", nn.initializers.normal(1.0), (k, k, c, self.features)) / (k * c**0.5)
        x = x.astype(self.dtype)
        if self.down == 2 and k == 1:
            x = layers.downsample2d(x)
        x = layers.conv_down2(x, kernel) if self.down == 2 and k == 3 else layers.conv(x, kernel)
        if self.linear:
            return x * self.gain
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        clamp = None if self.clamp is None else self.clamp * (self.gain / layers.SQRT2)
        return layers.bias_act(x, bias, self.gain, clamp)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, bias, leaky ReLU times sqrt 2: [b, h, w, c] -> [b, up h, up w, features].

    `noise` adds a noise image times a learnt strength: the layer's own (`constant`) or a fresh one for every image of
    the batch (`random`, rng `noise`); no released Real3D-Portrait super-resolution uses it. Styles come as [s] for the
    whole batch or [b, s]. The output is clamped to [-clamp, clamp].
    """

    features: int
    up: int = 1
    noise: Noise = "none"
    clamp: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        styles = layers.EqualisedDense(x.shape[-1], bias_init=1.0, name="affine")(w)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = layers.modulated_conv(x.astype(self.dtype), kernel, styles, self.up)
        if self.noise != "none":
            strength = self.param("noise_strength", nn.initializers.zeros, ())
            shape = y.shape[1:3]
            # Declared for random noise as well, so that both kinds have the same variables.
            constant = self.variable("constants", "noise", lambda: jax.random.normal(self.make_rng("params"), shape))
            if self.noise == "random" and not self.is_initializing():
                image = jax.random.normal(self.make_rng("noise"), y.shape[:3])
            else:
                image = constant.value
            y = y + (image * strength)[..., None].astype(y.dtype)
        return layers.bias_act(y, bias, clamp=self.clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation or activation: [b, h, w, c] -> [b, h, w, features], float32."""

    features: int = 3
    clamp: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        styles = layers.EqualisedDense(x.shape[-1], bias_init=1.0, name="affine")(w) / x.shape[-1] ** 0.5
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = layers.modulated_conv(x.astype(self.dtype), kernel, styles, demodulate=False)
        return layers.bias_act(y.astype(jnp.float32), bias, gain=1.0, clamp=self.clamp, slope=1.0)


class SynthesisBlock(nn.Module):
    """Two modulated convolutions and the image skip (StyleGAN2); `up=1` keeps the size (the official `NoUp` block).

    Args of the call: features [b, h, w, c], image so far [b, h, w, o] or None (no skip), styles [s] or [b, s] for all
    three layers, or a sequence of three such. Returns features [b, up h, up w, features] and image [b, up h, up w, o].
    """

    features: int
    up: int = 2
    image_features: int = 3
    noise: Noise = "none"
    clamp: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rgb: Array | None, w: Array | Sequence[Array]) -> tuple[Array, Array]:
        first, second, third = w if isinstance(w, list | tuple) else (w, w, w)
        same: dict[str, Any] = {"noise": self.noise, "clamp": self.clamp, "dtype": self.dtype}
        x = SynthesisLayer(self.features, self.up, **same, name="conv0")(x, first)
        x = SynthesisLayer(self.features, **same, name="conv1")(x, second)
        image = ToRGB(self.image_features, self.clamp, self.dtype, name="rgb")(x, third)
        if rgb is not None:
            image = image + (layers.upsample2d(rgb) if self.up == 2 else rgb)
        return x, image


class SynthesisStart(nn.Module):
    """The first block: a learnt 4x4 image and one convolution.

    Arg of the call: two styles [b, s]. Returns features [b, 4, 4, features] and image [b, 4, 4, o].
    """

    features: int
    image_features: int = 3
    noise: Noise = "none"
    clamp: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, w: Sequence[Array]) -> tuple[Array, Array]:
        start = self.param("start", nn.initializers.normal(1.0), (4, 4, self.features))
        x = jnp.broadcast_to(start, (w[0].shape[0], *start.shape))
        layer = SynthesisLayer(self.features, noise=self.noise, clamp=self.clamp, dtype=self.dtype, name="conv1")
        x = layer(x, w[0])
        return x, ToRGB(self.image_features, self.clamp, self.dtype, name="rgb")(x, w[1])


class Synthesis(nn.Module):
    """Styles [b, n, s] -> image [b, r, r, image_features], r = 4 * 2 ** (len(widths) - 1), n = `styles`.

    `widths` are the channels from 4x4 upwards. The style of a block's image is that of the next block's first
    convolution.
    """

    widths: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128)
    image_features: int = 96
    noise: Noise = "constant"
    clamp: float | None = None
    dtype: Any = jnp.float32

    @property
    def styles(self) -> int:
        return 2 * len(self.widths)

    @nn.compact
    def __call__(self, ws: Array) -> Array:
        if ws.ndim != 3 or ws.shape[1] != self.styles:
            raise InputError(
                f"this synthesis network takes styles [b, {self.styles}, s], got {ws.shape}: repeat one style for all "
                f"layers or give it {len(self.widths)} widths to match"
            )
        same: dict[str, Any] = {"noise": self.noise, "clamp": self.clamp, "dtype": self.dtype}
        w = [ws[:, i] for i in range(self.styles)]
        x, image = SynthesisStart(self.widths[0], self.image_features, **same, name="block4")(w[:2])
        for i, width in enumerate(self.widths[1:]):
            block = SynthesisBlock(width, 2, self.image_features, **same, name=f"block{8 * 2**i}")
            x, image = block(x, image, w[2 * i + 1 : 2 * i + 4])
        return image
