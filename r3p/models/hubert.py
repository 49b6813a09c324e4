"""HuBERT (Hsu et al. 2021): speech to features at 50 Hz, the sound that the official audio-to-motion network reads.

A strided convolution of the wave (the extractor: 400 samples in, one frame every 320), a transformer over the frames,
positions from one wide grouped convolution. `Hubert()` has the shape of facebook/hubert-large-ls960-ft; `from_config`
reads any config.json of that family (base, large, extra large, and their relatives).

Shapes: b sounds, n samples at 16 kHz, t frames, h heads, c channels.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from r3p.errors import InputError
from r3p.models.norms import BatchNorm

Array = jax.Array

# What config.json calls them; "gelu" is the exact form with erf.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}
_DENSE_INIT = nn.initializers.normal(0.02)


def activation(name: str) -> Callable[[Array], Array]:
    if name not in ACTIVATIONS:
        raise InputError(f"activation is {name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _convolve(x: Array, kernel: Array, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride,), [padding], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
    )


def _present(t: int, lengths: Array | None) -> Array | None:
    """[b, t, 1] true where a frame belongs to the sound; None when all do."""
    return None if lengths is None else (jnp.arange(t) < lengths[:, None])[..., None]


class TimeNorm(nn.Module):
    """Normalises every channel over the time of its own sound: a group norm with one channel a group.

    x [b, t, c], present [b, t, 1] or None -> [b, t, c]; frames beyond the sound do not count.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, present: Array | None) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y = x.astype(jnp.float32)
        mean = jnp.mean(y, 1, keepdims=True, where=present)
        var = jnp.mean(jnp.square(y - mean), 1, keepdims=True, where=present)
        return ((y - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(x.dtype)


class Extractor(nn.Module):
    """Wave [b, n] -> frames [b, t, c] through convolutions without padding, and how many frames each sound has.

    `norm` is "layer" (over the channels, after every convolution) or "group" (over time, after the first one only).
    """

    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    use_bias: bool
    norm: str
    activation: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, wave: Array, samples: Array | None = None) -> tuple[Array, Array | None]:
        x, lengths = wave[..., None].astype(self.dtype), samples
        init = nn.initializers.he_normal()
        for i, (width, size, stride) in enumerate(zip(self.widths, self.kernels, self.strides, strict=True)):
            kernel = self.param(f"kernel{i}", init, (size, x.shape[-1], width))
            x = _convolve(x, kernel.astype(self.dtype), stride)
            lengths = None if lengths is None else (lengths - size) // stride + 1
            if self.use_bias:
                x = x + self.param(f"bias{i}", nn.initializers.zeros, (width,)).astype(self.dtype)
            if self.norm == "layer":
                x = nn.LayerNorm(1e-5, dtype=self.dtype, name=f"norm{i}")(x)
            elif i == 0:
                x = TimeNorm(name="norm0")(x, _present(x.shape[1], lengths))
            x = activation(self.activation)(x)
        return x, lengths


class Projection(nn.Module):
    """Frames [b, t, c] -> [b, t, width], with a layer norm before if `norm`."""

    width: int
    norm: bool
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.norm:
            x = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=_DENSE_INIT, name="dense")(x)


class Position(nn.Module):
    """What a frame's neighbourhood says about its place: a grouped convolution over `kernel_size` frames.

    The kernel is `scale * v / |v|`, the norm taken over the channels of each tap (Salimans and Kingma 2016; both stay
    parameters); with `batch_norm` it is plain and the input is normalised instead.
    x [b, t, c], present [b, t, 1] or None -> [b, t, c].
    """

    kernel_size: int
    groups: int
    activation: str
    batch_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, present: Array | None = None) -> Array:
        k, c = self.kernel_size, x.shape[-1]
        init = nn.initializers.normal(2 / math.sqrt(k * c))
        kernel = self.param("kernel", init, (k, c // self.groups, c))
        if self.batch_norm:
            x = BatchNorm(dtype=self.dtype, name="norm")(x)
        else:
            norm = jnp.sqrt(jnp.sum(jnp.square(kernel), (1, 2), keepdims=True))
            kernel = kernel * (self.param("scale", lambda _: norm) / norm)
        if present is not None:
            x = jnp.where(present, x, 0)  # the zeros that the convolution itself pads with
        # An even kernel looks one frame further back than ahead.
        y = _convolve(x, kernel.astype(self.dtype), padding=(k // 2, (k - 1) // 2), groups=self.groups)
        bias = self.param("bias", nn.initializers.zeros, (c,))
        return activation(self.activation)(y + bias.astype(self.dtype))


class Attention(nn.Module):
    """Every frame attends to all present ones: x [b, t, c], present [b, t, 1] or None -> [b, t, c]."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, present: Array | None = None) -> Array:
        b, t, c = x.shape
        size = c // self.heads
        dense = functools.partial(nn.Dense, c, dtype=self.dtype, kernel_init=_DENSE_INIT)
        query, key, value = (dense(name=n)(x).reshape(b, t, self.heads, size) for n in ("query", "key", "value"))
        score = jnp.einsum("bqhc,bkhc->bhqk", query * size**-0.5, key, preferred_element_type=jnp.float32)
        if present is not None:
            score = jnp.where(present[:, None, None, :, 0], score, jnp.finfo(jnp.float32).min)
        weight = nn.softmax(score).astype(self.dtype)
        return dense(name="out")(jnp.einsum("bhqk,bkhc->bqhc", weight, value).reshape(b, t, c))


class Layer(nn.Module):
    """Attention, then two dense layers, each added to what came in: [b, t, c] -> [b, t, c].

    `pre_norm` normalises what a branch reads, otherwise the sum is normalised.
    """

    heads: int
    hidden: int
    activation: str
    pre_norm: bool
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, present: Array | None = None) -> Array:
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_DENSE_INIT)
        attend = Attention(self.heads, self.dtype, name="attention")
        norms = [nn.LayerNorm(self.epsilon, dtype=self.dtype, name=n) for n in ("attention_norm", "mlp_norm")]
        up, down = dense(self.hidden, name="up"), dense(x.shape[-1], name="down")

        def mlp(y: Array) -> Array:
            return down(activation(self.activation)(up(y)))

        if self.pre_norm:
            x = x + attend(norms[0](x), present)
            return x + mlp(norms[1](x))
        x = norms[0](x + attend(x, present))
        return norms[1](x + mlp(x))


class Hubert(nn.Module):
    """Normalised wave [b, n] (zero mean, unit variance) -> features [b, t, width] at 50 Hz, for inference.

    The features are the last hidden state, after the final norm. Dropout and SpecAugment masks of HuBERT's own
    training are left out.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    conv_widths: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = True
    conv_norm: str = "layer"
    conv_activation: str = "gelu"
    projection_norm: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    position_batch_norm: bool = False
    pre_norm: bool = True
    activation: str = "gelu"
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of the extractor sees."""
        steps = [math.prod(self.conv_strides[:i]) for i in range(len(self.conv_strides))]
        return 1 + sum((size - 1) * step for size, step in zip(self.conv_kernels, steps, strict=True))

    def frames(self, samples: int) -> int:
        """How many frames `samples` give."""
        return max(0, (samples - self.receptive_field) // self.stride + 1)

    def check(self) -> None:
        """Raises InputError for sizes that do not fit each other."""
        for name in (self.activation, self.conv_activation):
            activation(name)
        if self.conv_norm not in ("layer", "group"):
            raise InputError(f"conv_norm is {self.conv_norm!r}: expected 'layer' or 'group'")
        counts = [len(c) for c in (self.conv_widths, self.conv_kernels, self.conv_strides)]
        if len(set(counts)) > 1 or not counts[0]:
            raise InputError(f"{counts} convolution widths, kernels and strides: expected equally many, at least one")
        for name, value in (("heads", self.heads), ("position_groups", self.position_groups)):
            if self.width % value:
                raise InputError(f"{name} is {value}: expected a divisor of the width {self.width}")

    @nn.compact
    def __call__(self, wave: Array, samples: Array | None = None) -> Array:
        """See the class.

        Args:
          wave: [b, n] float, each sound already normalised over its own length.
          samples: [b] int, how much of each row is sound; the rest is padding, which changes nothing before it: the
            frames of a padded row are those of the row alone, and zero after them. Everything when absent.

        Raises:
          InputError: for sizes that do not fit each other, or a wave of another shape or too short for one frame.
        """
        self.check()
        if wave.ndim != 2 or wave.shape[1] < self.receptive_field or not jnp.issubdtype(wave.dtype, jnp.floating):
            raise InputError(
                f"the wave is {wave.dtype}{list(wave.shape)}: expected floats [b, n], n at least {self.receptive_field}"
            )
        x, lengths = Extractor(
            self.conv_widths, self.conv_kernels, self.conv_strides, self.conv_bias, self.conv_norm,
            self.conv_activation, self.dtype, name="extractor",
        )(wave, samples)  # fmt: skip
        present = _present(x.shape[1], lengths)
        x = Projection(self.width, self.projection_norm, self.epsilon, self.dtype, name="projection")(x)
        x = x + Position(
            self.position_kernel, self.position_groups, self.conv_activation, self.position_batch_norm, self.dtype,
            name="position",
        )(x, present)  # fmt: skip
        norm = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")
        if not self.pre_norm:
            x = norm(x)
        for i in range(self.layers):
            x = Layer(
                self.heads, self.hidden, self.activation, self.pre_norm, self.epsilon, self.dtype, name=f"layer{i}"
            )(x, present)
        if self.pre_norm:
            x = norm(x)
        return x if present is None else jnp.where(present, x, 0)


def from_config(config: Mapping[str, Any], dtype: Any = jnp.float32) -> Hubert:
    """The network that a config.json of a HuBERT checkpoint describes; absent entries have the values of the base.

    Raises:
      InputError: another kind of model, an adapter, or an activation that is not known.
    """
    kind = config.get("model_type", "hubert")
    if kind != "hubert":
        raise InputError(f"the config describes a model of type {kind!r}: expected 'hubert', give its own config.json")
    if config.get("adapter_attn_dim") is not None:
        raise InputError("the config asks for attention adapters: expected a HuBERT without, such as the official one")
    get = config.get
    model = Hubert(
        width=get("hidden_size", 768),
        layers=get("num_hidden_layers", 12),
        heads=get("num_attention_heads", 12),
        hidden=get("intermediate_size", 3072),
        conv_widths=tuple(get("conv_dim", (512,) * 7)),
        conv_kernels=tuple(get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))),
        conv_strides=tuple(get("conv_stride", (5, 2, 2, 2, 2, 2, 2))),
        conv_bias=get("conv_bias", False),
        conv_norm=get("feat_extract_norm", "group"),
        conv_activation=get("feat_extract_activation", "gelu"),
        projection_norm=get("feat_proj_layer_norm", True),
        position_kernel=get("num_conv_pos_embeddings", 128),
        position_groups=get("num_conv_pos_embedding_groups", 16),
        position_batch_norm=get("conv_pos_batch_norm", False),
        pre_norm=get("do_stable_layer_norm", False),
        activation=get("hidden_act", "gelu"),
        epsilon=get("layer_norm_eps", 1e-5),
        dtype=dtype,
    )
    model.check()
    return model
