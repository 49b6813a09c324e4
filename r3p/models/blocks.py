"""Blocks of the torso model: spectrally normalised convolutions, norms and residuals of images and volumes.

Shapes: b batch, d depth, h height, w width, c channels, o output channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from r3p.models import layers
from r3p.models.norms import BatchNorm

Array = jax.Array


class Conv(nn.Module):
    """Zero-padded stride 1 convolution of images (`dims=2`) or volumes (`dims=3`), optionally spectrally normalised.

    Spectral normalisation (Miyato et al. 2018) divides the kernel by its largest singular value u^T W v. u [o] and v
    [c * kh * kw] are `batch_stats`; while training, one power iteration a call refreshes them, outside of the gradient.
    """

    features: int
    kernel_size: int = 3
    dims: int = 2
    spectral: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        shape = (self.kernel_size,) * self.dims + (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.spectral:
            kernel = kernel / self._largest_singular_value(kernel, train)
        x = x.astype(self.dtype)
        y = layers.conv3d(x, kernel) if self.dims == 3 else layers.conv(x, kernel)
        return y + bias.astype(self.dtype)

    def _largest_singular_value(self, kernel: Array, train: bool) -> Array:
        matrix, taps = kernel.reshape(-1, self.features), kernel.shape[:-2]

        def to_stored(v: Array) -> Array:  # from (taps, c) to (c, taps), the order of the published checkpoints
            return jnp.moveaxis(v.reshape(*taps, -1), -1, 0).reshape(-1)

        start = _singular_vectors(matrix) if self.is_initializing() else (jnp.zeros(()),) * 2
        stored_u = self.variable("batch_stats", "u", lambda: start[0])
        stored_v = self.variable("batch_stats", "v", lambda: to_stored(start[1]))
        u, v = stored_u.value, jnp.moveaxis(stored_v.value.reshape(-1, *taps), 0, -1).reshape(-1)
        if train and not self.is_initializing():
            u, v = lax.stop_gradient(_power_iteration(matrix, u))
            if self.is_mutable_collection("batch_stats"):
                stored_u.value, stored_v.value = u, to_stored(v)
        return _product(_product(v, matrix), u)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _power_iteration(matrix: Array, u: Array) -> tuple[Array, Array]:
    v = _product(matrix, u)
    v = v / jnp.maximum(jnp.linalg.norm(v), 1e-12)
    u = _product(v, matrix)
    return u / jnp.maximum(jnp.linalg.norm(u), 1e-12), v


def _singular_vectors(matrix: Array) -> tuple[Array, Array]:
    """The first singular vectors of a [n, o] matrix, o being moderate: u [o] and v [n]."""
    _, vectors = jnp.linalg.eigh(_product(matrix.T, matrix))
    return _power_iteration(matrix, vectors[:, -1])


class ConvBlock(nn.Module):
    """Convolution, batch norm and activation; `norm_first` puts them in the order norm, activation, convolution."""

    features: int
    kernel_size: int = 3
    dims: int = 2
    norm_first: bool = False
    spectral: bool = False
    slope: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        conv = Conv(self.features, self.kernel_size, self.dims, self.spectral, self.dtype, name="conv")
        norm = BatchNorm(dtype=self.dtype, name="norm")
        if self.norm_first:
            return conv(nn.leaky_relu(norm(x, train=train), self.slope), train=train)
        return nn.leaky_relu(norm(conv(x, train=train), train=train), self.slope)


class ResBlock(nn.Module):
    """x + two blocks of norm, ReLU, convolution."""

    dims: int = 2
    spectral: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        y = x
        for i in range(2):
            block = ConvBlock(x.shape[-1], 3, self.dims, True, self.spectral, dtype=self.dtype, name=f"block{i}")
            y = block(y, train=train)
        return x + y


def halve(x: Array) -> Array:
    """Mean of 2x2 pixels: [b, (d,) h, w, c] -> [b, (d,) h/2, w/2, c]."""
    *lead, h, w, c = x.shape
    return x.reshape(*lead, h // 2, 2, w // 2, 2, c).mean((-4, -2))


def to_image(volume: Array) -> Array:
    """[b, d, h, w, c] -> [b, h, w, c * d]: channel c * depth + d, as in the published checkpoints."""
    b, d, h, w, c = volume.shape
    return volume.transpose(0, 2, 3, 4, 1).reshape(b, h, w, c * d)


def to_volume(image: Array, depth: int) -> Array:
    """The inverse of `to_image`."""
    b, h, w, c = image.shape
    return image.reshape(b, h, w, c // depth, depth).transpose(0, 4, 1, 2, 3)
