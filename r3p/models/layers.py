"""Layers whose conventions the networks depend on: StyleGAN2 operations, resizing, sampling, dilation, 3-D convolution.

Shapes: b batch, d depth, h height, w width, c channels in, o channels out. Channels come last everywhere.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from r3p import sharding
from r3p.errors import InputError
from r3p.models.convolution import conv_general_dilated, is_wide

Array = jax.Array
Padding = Literal["zeros", "border"]

SQRT2 = math.sqrt(2.0)
_DIMENSIONS = {4: ("NHWC", "HWIO", "NHWC"), 5: ("NDHWC", "DHWIO", "NDHWC")}


# ------------------------------------------------------------------------------------------------ StyleGAN2
class EqualisedDense(nn.Module):
    """Dense layer with an equalised learning rate (Karras et al. 2018): [.., c] -> [.., features].

    The stored kernel is unit normal; `learning_rate` / sqrt(c) scales it and `learning_rate` the bias at run time.
    """

    features: int
    learning_rate: float = 1.0
    bias_init: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.normal(1 / self.learning_rate), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias_init / self.learning_rate), (self.features,))
        scale = self.learning_rate / math.sqrt(x.shape[-1])
        return x @ (kernel * scale).astype(x.dtype) + (bias * self.learning_rate).astype(x.dtype)


def normalise_second_moment(x: Array) -> Array:
    """Vectors [.., c] of mean square one (progressive GAN, section 4.2)."""
    return x * lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-8)


def bias_act(
    x: Array, bias: Array | None = None, gain: float = SQRT2, clamp: float | None = None, slope: float = 0.2
) -> Array:
    """Leaky ReLU of `x + bias`, times `gain`, then clamped to [-clamp, clamp]; `slope=1` makes it linear."""
    if bias is not None:
        x = x + bias.astype(x.dtype)
    if slope != 1:
        x = jnp.where(x < 0, x * slope, x)
    x = x * gain
    return x if clamp is None else jnp.clip(x, -clamp, clamp)


def conv(x: Array, kernel: Array, padding: str | Sequence[tuple[int, int]] = "SAME") -> Array:
    """Plain stride 1 convolution of [b, (d,) h, w, c] with [(kd,) kh, kw, c, o] in the type of `x`."""
    return conv_general_dilated(
        x, kernel.astype(x.dtype), (1,) * (x.ndim - 2), padding, dimension_numbers=_DIMENSIONS[x.ndim]
    )


def centred_conv(features: int, kernel: int, stride: int, name: str) -> nn.Conv:
    """Bias-free convolution of images with `kernel // 2` zeros around them, as residual networks have it."""
    pad = kernel // 2
    return nn.Conv(
        features, (kernel, kernel), (stride, stride), [(pad, pad)] * 2, use_bias=False, precision="highest", name=name
    )


def upsample2d(x: Array) -> Array:
    """Twice the size with the binomial filter [1, 3, 3, 1] (StyleGAN2 image skip): [b, h, w, c] -> [b, 2h, 2w, c]."""
    for axis in (1, 2):
        before, after = _shifted(x, axis, 1, 0), _shifted(x, axis, 0, 1)
        x = _interleave((before + 3 * x) / 4, (3 * x + after) / 4, axis)
    return x


def modulated_conv(x: Array, kernel: Array, styles: Array, up: int = 1, demodulate: bool = True) -> Array:
    """Convolution whose input channels are scaled by `styles` and whose outputs are demodulated (StyleGAN2, eq. 1-3).

    Args:
      x: [b, h, w, c].
      kernel: [k, k, c, o], k odd; 3 when `up` is 2.
      styles: [c], one style for the batch, which is folded into the kernel; or [b, c], which scales the activations.
      up: 1, or 2 for a transposed convolution followed by the binomial filter.
      demodulate: divide each output by the norm of its modulated kernel.

    Returns:
      [b, up * h, up * w, o].
    """
    apply = {1: conv, 2: conv_up2}[up]
    if styles.ndim == 1:
        kernel = kernel * styles[:, None]
        if demodulate:
            kernel = kernel * lax.rsqrt(jnp.sum(kernel**2, axis=(0, 1, 2)) + 1e-8)
        return apply(x, kernel)
    y = apply(x * styles[:, None, None].astype(x.dtype), kernel)
    if demodulate:
        norm = lax.rsqrt(styles**2 @ jnp.sum(kernel**2, axis=(0, 1)) + 1e-8)
        y = y * norm[:, None, None].astype(y.dtype)
    return y


def conv_up2(x: Array, kernel: Array) -> Array:
    """Transposed 3x3 convolution of stride 2, then the filter [1, 3, 3, 1] / 4 along each axis: -> [b, 2h, 2w, o]."""
    return _conv_up2_wide(x, kernel) if is_wide(x, kernel) else _conv_up2_by_phases(x, kernel)


@jax.custom_jvp
def _conv_up2_wide(x: Array, kernel: Array) -> Array:
    return lax.platform_dependent(x, kernel, cpu=_conv_up2_folded, default=_conv_up2_by_phases)


@_conv_up2_wide.defjvp
def _conv_up2_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    return _conv_up2_wide(x, kernel), _conv_up2_by_phases(dx, kernel) + _conv_up2_by_phases(x, dkernel)


# The two phases of `conv_up2` along an axis, from the taps of its kernel (columns) to those at x[i-1], x[i], x[i+1].
_PHASES = np.array([[[0, 1, 3], [3, 3, 1], [1, 0, 0]], [[0, 0, 1], [1, 3, 3], [3, 1, 0]]], np.float32) / 4


def _conv_up2_folded(x: Array, kernel: Array) -> Array:
    """Filter and kernel as one: a 3x3 convolution to four phases, four times the products but what Winograd is for."""
    b, h, w, _ = x.shape
    folded = jnp.einsum("yra,xsb,abco->rscyxo", _PHASES, _PHASES, kernel, precision=lax.Precision.HIGHEST)
    y = conv(x, folded.reshape(*folded.shape[:3], -1)).reshape(b, h, w, 2, 2, -1)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


def _conv_up2_by_phases(x: Array, kernel: Array) -> Array:
    """`conv_up2` without stuffed zeros.

    Along an axis the transposed convolution t has even entries e[i] = x[i-1] k2 + x[i] k0 (i = 0..n) and odd entries
    o[i] = x[i] k1, and the filtered signal is y[2i] = (o[i-1] + 3 e[i] + 3 o[i] + e[i+1]) / 4,
    y[2i+1] = (e[i] + 3 o[i] + 3 e[i+1] + o[i+1]) / 4: nine taps a low-resolution pixel in four small convolutions.
    """
    # Padding outside of the convolution: XLA:CPU needs ten times longer for the kernel's gradient of a padded even one.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps, crop = (slice(None, None, -2), slice(1, 2)), (slice(None), slice(1, -1))

    def phase(row: int, column: int) -> Array:
        return conv(padded[:, crop[row], crop[column]], kernel[taps[row], taps[column]], "VALID")

    halves = [_filter_phases(phase(0, column), phase(1, column), axis=1) for column in (0, 1)]
    return _filter_phases(halves[0], halves[1], axis=2)


def _filter_phases(even: Array, odd: Array, axis: int) -> Array:
    n = odd.shape[axis]
    here = lax.slice_in_dim(even, 0, n, axis=axis)
    following = lax.slice_in_dim(even, 1, n + 1, axis=axis)
    before, after = _shifted(odd, axis, 1, 0), _shifted(odd, axis, 0, 1)
    return _interleave((before + 3 * (here + odd) + following) / 4, (here + 3 * (odd + following) + after) / 4, axis)


def _shifted(x: Array, axis: int, before: int, after: int) -> Array:
    """`x` moved by `before` towards the end or by `after` towards the start of the axis, zeros coming in."""
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (before - after, after - before, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _interleave(even: Array, odd: Array, axis: int) -> Array:
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis=axis + 1).reshape(shape)


def _check_even(x: Array, axis: int) -> None:
    if x.shape[axis] % 2:
        raise InputError(f"halving takes even sides, got {x.shape[axis]} on axis {axis} of {x.shape}: pad or resize it")


def _filter_split(x: Array, axis: int) -> tuple[Array, Array]:
    """[1, 3, 3, 1] / 8 along an axis of even length 2m, over two zeros at both ends: -> its values at even (m + 1) and
    at odd places (m)."""
    _check_even(x, axis)
    pads = [(0, 0)] * x.ndim
    pads[axis] = (2, 2)
    pairs = jnp.pad(x, pads)
    pairs = pairs.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    m = x.shape[axis] // 2

    def at(part: Array, start: int, count: int) -> Array:
        return lax.slice_in_dim(part, start, start + count, axis=axis)

    at_even = at(even, 0, m + 1) + 3 * (at(odd, 0, m + 1) + at(even, 1, m + 1)) + at(odd, 1, m + 1)
    at_odd = at(odd, 0, m) + 3 * (at(even, 1, m) + at(odd, 1, m)) + at(even, 2, m)
    return at_even / 8, at_odd / 8


def downsample2d(x: Array) -> Array:
    """Half the size with the binomial filter [1, 3, 3, 1] (StyleGAN2): [b, 2h, 2w, c] -> [b, h, w, c]."""
    for axis in (1, 2):
        x = _filter_split(x, axis)[1]
    return x


def conv_down2(x: Array, kernel: Array) -> Array:
    """The binomial filter, then a 3x3 convolution of stride 2: [b, 2h, 2w, c] -> [b, h, w, o]."""
    if kernel.shape[:2] != (3, 3):
        raise InputError(f"conv_down2 takes 3x3 kernels, got {kernel.shape[0]}x{kernel.shape[1]}")
    # TPU's compiler knows strides well. By phases, the one for v5p (libtpu 0.0.42) aborts on what R1 differentiates.
    # Not `platform_dependent`: within a condition it would keep what both ways make of `x` for the backward pass.
    return (_conv_down2_strided if sharding.platform() == "tpu" else _conv_down2_by_phases)(x, kernel)


def _conv_down2_strided(x: Array, kernel: Array) -> Array:
    for axis in (1, 2):
        _check_even(x, axis)
        n = x.shape[axis] + 1
        padded = jnp.pad(x, [(2, 2) if a == axis else (0, 0) for a in range(x.ndim)])
        taps = [lax.slice_in_dim(padded, i, i + n, axis=axis) for i in range(4)]
        x = (taps[0] + 3 * (taps[1] + taps[2]) + taps[3]) / 8
    return lax.conv_general_dilated(x, kernel.astype(x.dtype), (2, 2), "VALID", dimension_numbers=_DIMENSIONS[4])


def _conv_down2_by_phases(x: Array, kernel: Array) -> Array:
    """`conv_down2` whose derivatives of every order are convolutions of stride 1.

    The filtered image z is made as its four phases, y[i] = z[2i] k0 + z[2i + 1] k1 + z[2i + 2] k2 along an axis.
    """
    taps = (slice(None, None, 2), slice(1, 2))
    total: Any = 0
    for rows, part in zip(taps, _filter_split(x, 1), strict=True):
        for columns, phase in zip(taps, _filter_split(part, 2), strict=True):
            total = total + conv(phase, kernel[rows, columns], "VALID")
    return total


# ------------------------------------------------------------------------------------------------ resizing
@functools.lru_cache(maxsize=64)
def _linear_weights(n_in: int, n_out: int, align_corners: bool, antialias: bool) -> np.ndarray:
    """[n_out, n_in] float32: the triangle filter at the places the outputs look at, rows summing to one."""
    if align_corners:
        place = np.arange(n_out) * ((n_in - 1) / max(n_out - 1, 1))
    else:
        place = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    width = max(n_in / n_out, 1.0) if antialias else 1.0
    if not antialias:
        place = np.clip(place, 0, n_in - 1)
    weights = np.maximum(0.0, 1 - np.abs(place[:, None] - np.arange(n_in)) / width)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize(x: Array, size: tuple[int, int], *, align_corners: bool = False, antialias: bool = False) -> Array:
    """Bilinear resize with PyTorch's conventions: [b, h, w, c] -> [b, *size, c].

    `align_corners=True` puts corner pixels on corner pixels, otherwise pixel areas are aligned; `antialias` widens the
    filter when shrinking. `jax.image.resize` knows only the second convention.
    """
    if antialias and align_corners:
        raise InputError("resize got antialias and align_corners together; no such filter is defined: drop one of them")
    for axis, n_out in ((1, size[0]), (2, size[1])):
        if x.shape[axis] != n_out:
            weights = _linear_weights(x.shape[axis], n_out, align_corners, antialias).astype(x.dtype)
            spec = "oh,bhwc->bowc" if axis == 1 else "ow,bhwc->bhoc"
            x = jnp.einsum(spec, weights, x, precision=lax.Precision.HIGHEST)
    return x


def upsample_nearest(x: Array) -> Array:
    """Doubles height and width by repeating pixels: [b, .., h, w, c] -> [b, .., 2h, 2w, c]."""
    *lead, h, w, c = x.shape
    x = jnp.broadcast_to(x[..., :, None, :, None, :], (*lead, h, 2, w, 2, c))
    return x.reshape(*lead, 2 * h, 2 * w, c)


# ------------------------------------------------------------------------------------------------ sampling
def grid_sample(x: Array, grid: Array, *, padding: Padding = "zeros", align_corners: bool = False) -> Array:
    """Samples `x` (bi- or trilinearly) at `grid`, in 2-D or 3-D.

    Args:
      x: [b, h, w, c] or [b, d, h, w, c].
      grid: [b, .., n], n = 2 or 3; the last axis is (x along w, y along h[, z along d]) in [-1, 1].
      padding: `zeros` lets every corner outside count as zero on its own; `border` clamps the position first.
      align_corners: -1 and 1 are the centres of the outermost samples, otherwise their outer edges.

    Returns:
      [b, .., c].
    """
    sizes = x.shape[1:-1]
    if grid.shape[-1] != len(sizes):
        raise InputError(
            f"grid_sample got {grid.shape[-1]} coordinates for {len(sizes)} spatial axes; give one for each axis"
        )
    lead, c = grid.shape[:-1], x.shape[-1]
    table = x.reshape(x.shape[0], -1, c)
    low, frac = [], []
    for n, g in zip(sizes, jnp.moveaxis(grid.reshape(lead[0], -1, len(sizes)), -1, 0)[::-1], strict=True):
        place = (g + 1) / 2 * (n - 1) if align_corners else ((g + 1) * n - 1) / 2
        if padding == "border":
            place = jnp.clip(place, 0, n - 1)
        floor = jnp.floor(place)
        # Far outside, the index is clamped before the cast: huge floats do not fit an int32.
        low.append(jnp.clip(floor, -2, n + 1).astype(jnp.int32))
        frac.append(place - floor)
    out: Any = 0
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        index, weight = jnp.zeros((), jnp.int32), jnp.ones((), x.dtype)
        for n, i, f, step in zip(sizes, low, frac, corner, strict=True):
            at = i + step
            weight = weight * (f if step else 1 - f).astype(x.dtype)
            if padding == "zeros":
                weight = jnp.where((at >= 0) & (at < n), weight, 0)
            index = index * n + jnp.clip(at, 0, n - 1)
        values = jax.vmap(lambda rows, i: rows.at[i].get(mode="promise_in_bounds"))(table, index)
        out = out + values * weight[..., None]
    return out.reshape(*lead, c)


def dilate(x: Array, size: int) -> Array:
    """Largest value within a window of odd `size`: [b, h, w, c] -> same. Edges are mirrored without repeating them."""
    p = size // 2
    x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), mode="reflect")
    return nn.max_pool(x, (size, size), strides=(1, 1), padding="VALID")


# ------------------------------------------------------------------------------------------------ 3-D convolution
def conv3d(x: Array, kernel: Array) -> Array:
    """Stride 1 zero-padded convolution: [b, d, h, w, c] with [kd, kh, kw, c, o] (odd) -> [b, d, h, w, o].

    XLA's own 3-D convolution reaches a quarter of the processor's speed, its 2-D one all of it: on CPU the depth taps
    become channels of one 2-D convolution, on the side (input or output) that has fewer channels.
    """
    if kernel.shape[:3] == (1, 1, 1):
        return x @ kernel[0, 0, 0].astype(x.dtype)
    return lax.platform_dependent(x, kernel, cpu=conv3d_by_slices, default=conv)


def conv3d_by_slices(x: Array, kernel: Array) -> Array:
    """`conv3d` as one 2-D convolution over all depth slices."""
    b, d, h, w, c = x.shape
    kd, kh, kw, _, o = kernel.shape
    pads = [(0, 0)] * 5
    pads[1] = (kd // 2, kd // 2)
    if c <= o:
        x = jnp.pad(x, pads)
        x = jnp.concatenate([x[:, i : i + d] for i in range(kd)], axis=-1).reshape(b * d, h, w, kd * c)
        taps = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kd * c, o)
        return conv(x, taps).reshape(b, d, h, w, o)
    taps = kernel.transpose(1, 2, 3, 0, 4).reshape(kh, kw, c, kd * o)
    y = conv(x.reshape(b * d, h, w, c), taps).reshape(b, d, h, w, kd * o)
    y = jnp.pad(y, pads)
    return functools.reduce(jnp.add, [y[:, i : i + d, ..., i * o : (i + 1) * o] for i in range(kd)])


def conv3d_of_repeated(x: Array, kernel: Array, depth: int) -> Array:
    """`conv3d` of a volume that is the image `x` [b, h, w, c] repeated `depth` times: -> [b, depth, h, w, o].

    Every output slice sees the same image through the sum of those depth taps that fall inside the volume; only the
    slices next to the ends have sums of their own, so a few 2-D kernels do the work of `depth` 3-D ones.
    """
    kd, kh, kw, c, o = kernel.shape
    source = np.arange(depth)[:, None] + np.arange(kd) - kd // 2
    inside = ((source >= 0) & (source < depth)).astype(np.float32)
    sums, which = np.unique(inside, axis=0, return_inverse=True)
    taps = jnp.einsum("ud,dhwco->hwcuo", sums, kernel, precision=lax.Precision.HIGHEST)
    y = conv(x, taps.reshape(kh, kw, c, -1)).reshape(*x.shape[:3], len(sums), o)
    return jnp.moveaxis(y[..., which.reshape(-1), :], -2, 1)
