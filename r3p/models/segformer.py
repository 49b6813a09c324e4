"""SegFormer: hierarchical transformer encoder (MiT), all-MLP head, and the network from an image to tri-planes on them.

Source: Xie et al., SegFormer (NeurIPS 2021), sections 3.1-3.2. Images stay [b, h, w, c] throughout; only attention
sees tokens. Shapes: b batch, h w image, c channels, n tokens, m keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax import lax

from r3p.errors import InputError
from r3p.models import layers
from r3p.models.convolution import Conv
from r3p.models.norms import BatchNorm
from r3p.models.planes import to_planes

Array = jax.Array

# Linear layers and convolutions start as in the paper's code.
DENSE_INIT = nn.initializers.truncated_normal(0.02)
CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# For convolutions before a (leaky) ReLU, and for a last, linear one.
RELU_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
LINEAR_INIT = nn.initializers.lecun_normal()

SCORES_AT_ONCE = 2**27  # attention scores held at a time, float32 (512 MiB)

# Depths and widths of the published encoders; b0 is the motion adapter's.
SCALES = {
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256)),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512)),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512)),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512)),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512)),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512)),
}


def encoder_fields(scale: str) -> dict[str, Any]:
    """Fields of `MixTransformer` for a published size, b0 to b5; the fields not given are the same for all of them."""
    if scale not in SCALES:
        raise InputError(f"encoder scale {scale!r} is unknown: choose one of {', '.join(SCALES)}")
    depths, widths = SCALES[scale]
    return {"depths": depths, "widths": widths}


def _shifted_sum(x: Array, kernel: Array) -> Array:
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    terms = [padded[:, i : i + h, j : j + w] * kernel[i, j, 0] for i in range(3) for j in range(3)]
    return sum(terms[1:], terms[0])


def _grouped(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


def _kernel_gradient_by_rows(x: Array, cotangent: Array) -> Array:
    _, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def add_row(total: Array, row: Array) -> tuple[Array, None]:
        above = lax.dynamic_slice_in_dim(padded, row, 3, axis=1)
        here = lax.dynamic_index_in_dim(cotangent, row, axis=1, keepdims=False)
        return total + jnp.stack([above[:, i, j : j + w] * here for i in range(3) for j in range(3)]), None

    total, _ = lax.scan(add_row, jnp.zeros((9, x.shape[0], w, c), x.dtype), jnp.arange(h))
    return total.sum((1, 2)).reshape(3, 3, 1, c)


@jax.custom_vjp
def depthwise(x: Array, kernel: Array) -> Array:
    """3x3 convolution of each channel on its own, zero-padded: [b, h, w, c] with [3, 3, 1, c] -> [b, h, w, c].

    XLA's grouped convolution is forty times slower on a processor than nine shifted products, and its kernel gradient
    four times slower than one accumulated row by row.
    """
    return lax.platform_dependent(x, kernel, cpu=_shifted_sum, default=_grouped)


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, kernel), (x, kernel)


def _depthwise_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved

    def by_transposition(x: Array, cotangent: Array) -> Array:
        return jax.vjp(lambda k: _grouped(x, k), kernel)[1](cotangent)[0]

    dkernel = lax.platform_dependent(x, cotangent, cpu=_kernel_gradient_by_rows, default=by_transposition)
    return depthwise(cotangent, kernel[::-1, ::-1]), dkernel


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def attend(q: Array, k: Array, v: Array) -> Array:
    """Softmax attention: q [b, n, heads, d], k and v [b, m, heads, d] -> [b, n, heads, d]; softmax in float32.

    Queries go through in groups when the scores would not fit in `SCORES_AT_ONCE`, and are recomputed backwards.
    """
    b, n, heads, d = q.shape

    def some(q: Array) -> Array:
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32)
        return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores * d**-0.5).astype(v.dtype), v)

    group = max(SCORES_AT_ONCE // (b * heads * k.shape[1]), 1)
    if n <= group:
        return some(q)
    one = jax.checkpoint(lambda q: some(q[:, None])[:, 0])
    return jnp.moveaxis(lax.map(one, jnp.moveaxis(q, 1, 0), batch_size=group), 0, 1)


class Attention(nn.Module):
    """Self-attention whose keys and values come from an image shrunk `reduction` times (SegFormer, eq. 2)."""

    heads: int
    reduction: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        r = self.reduction
        if c % self.heads or h % r or w % r:
            raise InputError(
                f"attention over {h}x{w}x{c} with {self.heads} heads and reduction {r}: the heads must divide the "
                f"channels and the reduction the sides"
            )

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, kernel_init=DENSE_INIT, name=name)

        q = dense(c, "q")(x)
        if r > 1:
            shrink = nn.Conv(c, (r, r), (r, r), "VALID", dtype=self.dtype, kernel_init=CONV_INIT, name="reduce")
            x = nn.LayerNorm(1e-5, dtype=self.dtype, name="reduce_norm")(shrink(x))
        k, v = jnp.split(dense(2 * c, "kv")(x), 2, axis=-1)
        q, k, v = (a.reshape(b, -1, self.heads, c // self.heads) for a in (q, k, v))
        return dense(c, "out")(attend(q, k, v).reshape(b, h, w, c))


class MixMlp(nn.Module):
    """Dense, 3x3 depthwise convolution, GELU, dense (SegFormer, eq. 3); the convolution stands in for positions."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=DENSE_INIT, name="up")(x)
        # Fan-out of a depthwise kernel is its nine taps.
        kernel = self.param("mix_kernel", nn.initializers.normal((2 / 9) ** 0.5), (3, 3, 1, self.hidden))
        bias = self.param("mix_bias", nn.initializers.zeros, (self.hidden,))
        x = depthwise(x, kernel.astype(self.dtype)) + bias.astype(self.dtype)
        return nn.Dense(c, dtype=self.dtype, kernel_init=DENSE_INIT, name="down")(nn.gelu(x, approximate=False))


class Block(nn.Module):
    """x + attention(norm x), then x + MLP(norm x): [b, h, w, c] -> same; `drop_path` drops a branch of an example."""

    heads: int
    ratio: int
    reduction: int = 1
    drop_path: float = 0.0
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        def branch(y: Array, name: str) -> Array:
            return nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train, name=name)(y)

        y = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm1")(x)
        x = x + branch(Attention(self.heads, self.reduction, self.dtype, name="attention")(y), "drop1")
        y = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm2")(x)
        return x + branch(MixMlp(self.ratio * x.shape[-1], self.dtype, name="mlp")(y), "drop2")


class PatchEmbed(nn.Module):
    """Overlapping patches: strided convolution and layer norm, [b, h, w, c] -> [b, h / stride, .., features]."""

    features: int
    kernel_size: int = 3
    stride: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k, s, p = self.kernel_size, self.stride, self.kernel_size // 2
        x = nn.Conv(
            self.features, (k, k), (s, s), ((p, p), (p, p)), dtype=self.dtype, kernel_init=CONV_INIT, name="conv"
        )(x)
        return nn.LayerNorm(1e-5, dtype=self.dtype, name="norm")(x)


class MixTransformer(nn.Module):
    """The encoder: [b, h, w, c] -> four feature images, each half the size of the one before it.

    Attributes:
      depths, widths, heads, reductions: per stage.
      stride: of the first patches; the others halve.
      ratio: of the MLPs.
      drop_path: rate of the last block, growing linearly from 0; needs the `dropout` rng in training.
      remat: recompute the blocks' activations in the backward pass.
    """

    depths: Sequence[int] = SCALES["b0"][0]
    widths: Sequence[int] = SCALES["b0"][1]
    heads: Sequence[int] = (1, 2, 5, 8)
    reductions: Sequence[int] = (8, 4, 2, 1)
    stride: int = 4
    ratio: int = 4
    drop_path: float = 0.1
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> list[Array]:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        total, index, stages = max(sum(self.depths) - 1, 1), 0, []
        for i, width in enumerate(self.widths):
            kernel_size, stride = (7, self.stride) if i == 0 else (3, 2)
            x = PatchEmbed(width, kernel_size, stride, self.dtype, name=f"embed{i}")(x)
            for j in range(self.depths[i]):
                rate = self.drop_path * index / total
                x = block(self.heads[i], self.ratio, self.reductions[i], rate, 1e-6, self.dtype, name=f"block{i}_{j}")(
                    x, train
                )
                index += 1
            x = nn.LayerNorm(1e-6, dtype=self.dtype, name=f"norm{i}")(x)
            stages.append(x)
        return stages


class SegFormerHead(nn.Module):
    """Every stage to `width` channels and the first one's size, fused by a 1x1 convolution, batch norm, ReLU, dropout.

    All before the norm is linear, so the two products of a stage become one, taken before it is enlarged.
    """

    width: int = 256
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stages: Sequence[Array], *, train: bool = False) -> Array:
        _, h, w, _ = stages[0].shape
        fuse = self.param("fuse_kernel", RELU_INIT, (1, 1, len(stages) * self.width, self.width))
        x = jnp.zeros((), self.dtype)
        for slot, (i, stage) in enumerate(reversed(list(enumerate(stages)))):  # the deepest comes first
            kernel = self.param(f"stage{i}_kernel", DENSE_INIT, (stage.shape[-1], self.width))
            bias = self.param(f"stage{i}_bias", nn.initializers.zeros, (self.width,))
            part = fuse[0, 0, slot * self.width : (slot + 1) * self.width]
            both, shift = ((a @ part).astype(self.dtype) for a in (kernel, bias))
            x = x + layers.resize(stage @ both + shift, (h, w))
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train=train))
        # Whole channels are dropped.
        return nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train, name="drop")(x)


class SegFormerPlanes(nn.Module):
    """Image to tri-planes: encoder, head, three convolutions, enlargement, last convolution, plane axes.

    Alone it is the pure SegFormer image-to-plane network ("b3" by default in the original).

    Attributes:
      channels: c of a plane; depth: slices of a tri-grid, 1 for tri-planes.
      encoder: fields of `MixTransformer`.
      width: of the head and the convolutions.
      upsample: size of the planes over that of the encoder's first stage.
      dropout: of the head's channels.
      out_scale: initial scale of the planes; near 0 starts a residual from nothing.
    """

    channels: int = 32
    depth: int = 1
    encoder: Mapping[str, Any] = FrozenDict()
    width: int = 256
    upsample: int = 2
    dropout: float = 0.1
    out_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """[b, h, w, c'] in [-1, 1] -> planes [b, 3, (d,) h', w', c], h' = h * upsample / stride."""
        stages = MixTransformer(**self.encoder, dtype=self.dtype, name="encoder")(x.astype(self.dtype), train=train)
        x = SegFormerHead(self.width, self.dropout, self.dtype, name="head")(stages, train=train)
        for i in range(3):
            x = Conv(self.width, (3, 3), dtype=self.dtype, kernel_init=RELU_INIT, name=f"conv{i}")(x)
            x = nn.leaky_relu(x, 0.01)
        size = (x.shape[1] * self.upsample, x.shape[2] * self.upsample)
        x = layers.resize(x, size, align_corners=True)
        init = nn.initializers.variance_scaling(self.out_scale**2, "fan_in", "truncated_normal")
        x = Conv(3 * self.channels * self.depth, (3, 3), dtype=self.dtype, kernel_init=init, name="out")(x)
        return to_planes(x, self.depth)
