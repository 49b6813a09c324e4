"""Super-resolution: of the head alone, and of head, torso and background fused (HTB-SR of Real3D-Portrait).

Resolutions: `raw` is what the volume renderer gives, `mid` = `up` raw (2 as released) where the parts are fused, the
image is 2 mid.
Shapes: b batch, h height, w width, c channels, s the style's width.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax import lax

from r3p.errors import InputError
from r3p.models import layers
from r3p.models.convolution import Conv
from r3p.models.keypoints import KeypointDetector, Warp, equivariance_loss
from r3p.models.stylegan import Noise, SynthesisBlock
from r3p.models.torso import TorsoCache, TorsoModel, TorsoOutput

Array = jax.Array
Fuse = Literal["v1", "v2", "v3", "concat"]
Keypoints = Literal["landmarks", "unsupervised"]
UNSUPERVISED_KEYPOINTS = 15  # face-vid2vid's number


def _style(w: Array | None, width: int) -> Array:
    # The released models feed constant ones to every layer: one style for the batch, folded into the kernels.
    return jnp.ones(width) if w is None else w


def _to_raw(x: Array, resolution: int) -> Array:
    return layers.resize(x, (resolution, resolution), antialias=True)


class SuperResolution(nn.Module):
    """Head super-resolution: raw image and feature image -> image of 2 `up` times the raw resolution.

    Args of the call: rgb [b, h, w, 3] in about [-1, 1] and features [b, h, w, c], resized (antialiased) to
    `raw_resolution` when they differ from it; w styles [s] or [b, s], None = constant ones as released.
    `noise`, `clamp`: of the blocks; the released model has neither.
    Returns rgb [b, 2 mid, 2 mid, 3], not clamped.
    """

    widths: tuple[int, int] = (256, 128)
    raw_resolution: int = 128
    up: int = 2
    style_width: int = 512
    noise: Noise = "none"
    clamp: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, rgb: Array, features: Array, w: Array | None = None) -> Array:
        w = _style(w, self.style_width)
        x, rgb = _to_raw(features, self.raw_resolution), _to_raw(rgb, self.raw_resolution)
        for i, (width, up) in enumerate(zip(self.widths, (self.up, 2), strict=True)):
            block = SynthesisBlock(width, up, noise=self.noise, clamp=self.clamp, dtype=self.dtype, name=f"block{i}")
            x, rgb = block(x, rgb, w)
        return rgb


# ------------------------------------------------------------------------------------------------ fusion
class ConvStack(nn.Module):
    """3x3 convolutions with leaky ReLUs between them, none after the last: [b, h, w, c] -> [b, h, w, features[-1]]."""

    features: tuple[int, ...]
    slope: float = 0.01
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate(self.features):
            x = x if i == 0 else nn.leaky_relu(x, self.slope)
            x = Conv(width, (3, 3), dtype=self.dtype, name=f"conv{i}")(x)
        return x


class PartedConv(nn.Module):
    """A convolution over the concatenation of several images, applied to one part at a time.

    A convolution is linear, so its value is the sum over the parts plus the bias; this lets what does not change from
    frame to frame be computed once, and what is linear before it be folded in. `inputs` are the parts' channels.
    """

    features: int
    kernel_size: int
    inputs: tuple[int, ...]
    dtype: Any = jnp.float32

    def setup(self) -> None:
        shape = (self.kernel_size, self.kernel_size, sum(self.inputs), self.features)
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,))

    def kernel_of(self, part: int) -> Array:
        start = sum(self.inputs[:part])
        return self.kernel[:, :, start : start + self.inputs[part]]

    def part(self, part: int, x: Array) -> Array:
        return layers.conv(x.astype(self.dtype), self.kernel_of(part))

    def part_after(self, part: int, before: "PartedConv", x: Array, mask: Array) -> Array:
        """`part(part, before(x) * mask)` for a 1x1 convolution `before`, as one convolution of the channels of x."""
        kernel, first = self.kernel_of(part), before.kernel[0, 0]
        # The bias of `before` becomes one more input channel that holds the mask.
        inner = jnp.concatenate([first, before.bias[None]], axis=0)
        folded = jnp.einsum("hwio,ci->hwco", kernel, inner, precision=lax.Precision.HIGHEST)
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1) * mask
        return layers.conv(x.astype(self.dtype), folded)

    def __call__(self, *parts: Array) -> Array:
        total = sum(self.part(i, x) for i, x in enumerate(parts))
        return total + self.bias.astype(self.dtype)


class FusionCache(NamedTuple):
    """What of a portrait does not change with time: the torso's, the background [b, mid, mid, 3] and its features.

    `background_features` are those after the first (linear) fusing layer [b, mid, mid, fuse_width].
    """

    torso: TorsoCache
    background: Array
    background_features: Array


class FusionOutput(NamedTuple):
    """Image [b, 2 mid, 2 mid, 3] (not clamped), what the torso model said, and the masks [b, mid, mid, 1] used."""

    rgb: Array
    torso: TorsoOutput
    head_alpha: Array
    person_mask: Array


class TorsoSuperResolution(nn.Module):
    """Head-torso-background super-resolution; `encode` once a portrait, `decode` a frame, calling it does both.

    Fields: `fuse` v1 blends features, v2 (released) and v3 concatenate head and torso and add a modulated block at the
    fusing resolution, v3 also predicts the head's alpha; `concat` is the paper's ablation without masks. `threshold`:
    head weights above it count as opaque. `torso_fields` are those of `TorsoModel`. `keypoints` "unsupervised" is the
    paper's other ablation: a `KeypointDetector` of `detector_fields` finds them in images of the portrait and of the
    frame's person, which are then given in the place of landmarks (torso_fields' `keypoints` of them, or 15).
    """

    torso_fields: Mapping[str, Any] = FrozenDict()
    widths: tuple[int, int] = (256, 128)
    raw_resolution: int = 128
    up: int = 2
    style_width: int = 512
    fuse: Fuse = "v2"
    threshold: float = 0.9
    background_width: int = 64
    fuse_width: int = 64
    alpha_widths: tuple[int, int] = (32, 32)
    keypoints: Keypoints = "landmarks"
    detector_fields: Mapping[str, Any] = FrozenDict()
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.keypoints not in ("landmarks", "unsupervised"):
            raise InputError(f"key points {self.keypoints!r} are unknown: choose landmarks or unsupervised")
        if self.fuse not in ("v1", "v2", "v3", "concat"):
            raise InputError(f"fuse mode {self.fuse!r} is unknown: choose v1, v2, v3 or concat")
        width = self.widths[0]
        if self.keypoints == "unsupervised":
            fields = {"keypoints": UNSUPERVISED_KEYPOINTS, **self.torso_fields}
            self.torso = TorsoModel(**fields, landmarks=False, dtype=self.dtype)
            self.detector = KeypointDetector(fields["keypoints"], **self.detector_fields, dtype=self.dtype)
        else:
            self.torso = TorsoModel(**self.torso_fields, dtype=self.dtype)
        self.block0 = SynthesisBlock(width, self.up, dtype=self.dtype)
        self.block1 = SynthesisBlock(self.widths[1], dtype=self.dtype)
        self.torso_encoder = PartedConv(width, 1, (self.torso.generator_widths[-1],), dtype=self.dtype)
        self.background_encoder = ConvStack((self.background_width, width, width), dtype=self.dtype)
        parts = (width,) * (3 if self.fuse == "concat" else 2)
        self.person_background = PartedConv(self.fuse_width, 1, parts, dtype=self.dtype)
        self.person_background_mix = ConvStack((width, width), dtype=self.dtype)
        if self.fuse in ("v2", "v3"):
            self.head_torso = PartedConv(width, 3, (width, width), dtype=self.dtype)
            self.head_torso_mix = ConvStack((width,), dtype=self.dtype)
            self.head_torso_block = SynthesisBlock(width, up=1, dtype=self.dtype)
        if self.fuse == "v3":
            self.alpha_predictor = ConvStack((*self.alpha_widths, 1), dtype=self.dtype)

    def encode(self, torso_image: Array, background: Array, segmap: Array, *, train: bool = False) -> FusionCache:
        """The part of a frame that depends on the portrait alone.

        Args:
          torso_image: [b, h, w, 3] in [-1, 1], the torso on black, extended upwards under the head.
          background: [b, h, w, 3] in [-1, 1].
          segmap: [b, h', w', 6] one-hot (or soft) classes of the source image.
          train: batch statistics in the normalisation layers.
        """
        mid = (self.up * self.raw_resolution,) * 2
        torso_image = layers.resize(torso_image, mid, antialias=True)
        background = layers.resize(background, mid, antialias=True)
        last = len(self.person_background.inputs) - 1
        features = self.person_background.part(last, self.background_encoder(background))
        return FusionCache(self.torso.encode(torso_image, segmap, train=train), background, features)

    def detect(self, image: Array, *, train: bool = False) -> Array:
        """Unsupervised key points [b, k, 3] of images [b, h, w, 3] in [-1, 1]; once a portrait, and once a frame."""
        return self.detector(image, train=train)

    def equivariance(self, images: Array, warp: Warp, *, train: bool = False) -> Array:
        """The loss that makes unsupervised key points consistent, see `r3p.models.keypoints.equivariance_loss`."""
        return equivariance_loss(lambda image: self.detector(image, train=train), images, warp)

    def _keypoints(self, given: Array, train: bool) -> Array:
        found = self.keypoints == "unsupervised" and given.ndim == 4
        return self.detect(given, train=train) if found else given

    def decode(
        self,
        cache: FusionCache,
        rgb: Array,
        features: Array,
        weights: Array,
        source_keypoints: Array,
        target_keypoints: Array,
        w: Array | None = None,
        *,
        train: bool = False,
    ) -> FusionOutput:
        """A frame from what `encode` kept (batch b, or 1 for the same portrait in all b frames).

        Args:
          cache: from `encode`.
          rgb: [b, raw, raw, 3] in about [-1, 1], the volume-rendered head.
          features: [b, raw, raw, c].
          weights: [b, raw, raw, 1] in [0, 1], the rays' weight sums. No gradient flows into them.
          source_keypoints: [b, 68, 3] in [-1, 1] image coordinates of the portrait; where they are unsupervised, the
            portrait [b, h, w, 3] in [-1, 1] or what `detect` found in it.
          target_keypoints: likewise of the frame (of its driver's image).
          w: styles [s] or [b, s]; None = constant ones as released.
          train: batch statistics in the normalisation layers, and the fixed threshold in mode v3.
        """
        w = _style(w, self.style_width)
        raw, mid = self.raw_resolution, (self.up * self.raw_resolution,) * 2
        rgb, features = _to_raw(rgb, raw), _to_raw(features, raw)
        alpha = layers.resize(lax.stop_gradient(weights), mid)
        head = layers.resize(lax.stop_gradient(rgb), mid)
        source, target = (self._keypoints(given, train) for given in (source_keypoints, target_keypoints))
        torso = self.torso.decode(cache.torso, source, target, head, alpha, train=train)
        x, rgb = self.block0(features, rgb, w)

        if self.fuse == "concat":
            one = jnp.ones_like(alpha)
            mixed = self.person_background.part(0, x)
            mixed += self.person_background.part_after(1, self.torso_encoder, torso.hidden, one)
            mixed += cache.background_features + self.person_background.bias.astype(self.dtype)
            x = self.person_background_mix(nn.leaky_relu(mixed, 0.01))
            _, rgb = self.block1(x, None, w)
            return FusionOutput(rgb, torso, alpha, one)

        if self.fuse == "v3":
            seen = jnp.concatenate([_unit(rgb), alpha, _unit(torso.rgb)], axis=-1)
            alpha = jnp.minimum(nn.sigmoid(self.alpha_predictor(seen).astype(jnp.float32)), alpha)
        rgb = rgb * alpha + torso.rgb * (1 - alpha)
        if self.fuse == "v1":
            x = x * alpha + self.torso_encoder(torso.hidden) * (1 - alpha)
        else:
            y = self.head_torso.part(0, x * alpha)
            y += self.head_torso.part_after(1, self.torso_encoder, torso.hidden, 1 - alpha)
            x = self.head_torso_mix(nn.leaky_relu(y + self.head_torso.bias.astype(self.dtype), 0.01))
            x, rgb = self.head_torso_block(x, rgb, w)

        threshold: Array | float = self.threshold
        if self.fuse == "v3" and not train:
            threshold = jnp.maximum(self.threshold, low_quantile(alpha))
        solid = jnp.where(alpha > threshold, 1.0, alpha)
        person = jnp.clip(torso.occlusion_2 + solid, 0, 1)
        rgb = rgb * person + cache.background * (1 - person)
        mixed = self.person_background.part(0, x * person) + cache.background_features * (1 - person)
        x = self.person_background_mix(nn.leaky_relu(mixed + self.person_background.bias.astype(self.dtype), 0.01))
        _, rgb = self.block1(x, rgb, w)
        return FusionOutput(rgb, torso, alpha, person)

    def __call__(
        self,
        rgb: Array,
        features: Array,
        weights: Array,
        torso_image: Array,
        background: Array,
        segmap: Array,
        source_keypoints: Array,
        target_keypoints: Array,
        w: Array | None = None,
        *,
        train: bool = False,
    ) -> FusionOutput:
        """`decode(encode(...), ...)`."""
        cache = self.encode(torso_image, background, segmap, train=train)
        return self.decode(cache, rgb, features, weights, source_keypoints, target_keypoints, w, train=train)


def _unit(rgb: Array) -> Array:
    return jnp.clip(rgb, -1, 1) / 2 + 0.5


def low_quantile(alpha: Array, q: float = 0.05, above: float = 0.05) -> Array:
    """The quantile `q` (linear interpolation) of each image's values above `above`: [b, h, w, 1] -> [b, 1, 1, 1].

    Zero where no value is above. (The official code takes one quantile over the batch and stops when there is none.)
    """
    flat = alpha.reshape(alpha.shape[0], -1)
    count = jnp.sum(flat > above, axis=1)
    ordered = jnp.sort(jnp.where(flat > above, flat, jnp.inf), axis=1)
    place = q * jnp.maximum(count - 1, 0)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(count - 1, 0))
    at = jnp.take_along_axis(ordered, jnp.stack([low, high], axis=1), axis=1)
    value = at[:, 0] + (place - low) * (at[:, 1] - at[:, 0])
    return jnp.where(count > 0, value, 0.0)[:, None, None, None]
