"""Torso model of Real3D-Portrait: a warp of the source torso's feature volume by key points (after face-vid2vid).

`mid` is the resolution of the images, `volume` = mid / 2^downs that of the feature volume.
Shapes: b batch, d depth, h height, w width, c channels, k key points, s = k + 1 motions (the first is "no motion").
The last axis of positions is (x, y, z) in [-1, 1]: x along w, y along h, z along d, the outermost samples at -1 and 1.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from r3p.errors import InputError
from r3p.models import layers
from r3p.models.blocks import Conv, ConvBlock, ResBlock, halve, to_image, to_volume

Array = jax.Array

TORSO_CLASSES = (2, 4)  # body skin and clothes among the six classes of the segmentation
# Of the 68 landmarks: ends of the jaw, chin, bridge of the nose; nine adds four along the jaw and the tip of the nose.
KEYPOINTS = {4: (0, 8, 16, 27), 9: (0, 3, 6, 8, 10, 13, 16, 27, 33)}
HEATMAP_VARIANCE = 0.01
MOTION_GRADIENT = 0.1


# ------------------------------------------------------------------------------------------------ networks
class AppearanceExtractor(nn.Module):
    """Image of the torso -> feature volume: [b, mid, mid, c] -> [b, depth, volume, volume, channels]."""

    widths: tuple[int, ...] = (64, 128, 256)
    channels: int = 32
    depth: int = 16
    residuals: int = 6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        x = ConvBlock(self.widths[0], 7, dtype=self.dtype, name="stem")(x, train=train)
        for i, width in enumerate(self.widths[1:]):
            x = halve(ConvBlock(width, dtype=self.dtype, name=f"down{i}")(x, train=train))
        x = Conv(self.channels * self.depth, 1, dtype=self.dtype, name="mix")(x)
        x = to_volume(x, self.depth)
        for i in range(self.residuals):
            x = ResBlock(3, dtype=self.dtype, name=f"res{i}")(x, train=train)
        return x


class Hourglass(nn.Module):
    """3-D encoder and decoder whose output is joined to its input: [b, d, h, w, c] -> [b, d, h, w, c + widths[0] / 2].

    Height and width are halved once a width; depth stays.
    """

    widths: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        y = x
        for i, width in enumerate(self.widths):
            y = halve(ConvBlock(width, dims=3, dtype=self.dtype, name=f"down{i}")(y, train=train))
        for i, width in enumerate((*self.widths[-2::-1], self.widths[0] // 2)):
            y = layers.upsample_nearest(y)
            y = ConvBlock(width, dims=3, dtype=self.dtype, name=f"up{i}")(y, train=train)
        return jnp.concatenate([x, y], axis=-1)


class HeadEncoder(nn.Module):
    """Image and weights [b, mid, mid, 4] of the target's head -> [b, *size, width], worked out at twice `size`."""

    width: int = 32
    residuals: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: tuple[int, int], *, train: bool = False) -> Array:
        x = layers.resize(x, (2 * size[0], 2 * size[1]))
        x = ConvBlock(self.width, 7, dtype=self.dtype, name="stem")(x, train=train)
        for i in range(self.residuals):
            x = ResBlock(dtype=self.dtype, name=f"res{i}")(x, train=train)
        return layers.resize(x, size)


class HeadFuser(nn.Module):
    """3-D convolution over a volume joined with an image repeated over depth: -> [b, d, h, w, features]."""

    features: int
    kernel_size: int = 7
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, volume: Array, image: Array) -> Array:
        c = volume.shape[-1]
        shape = (*(self.kernel_size,) * 3, c + image.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        volume, image = volume.astype(self.dtype), image.astype(self.dtype)
        y = layers.conv3d(volume, kernel[..., :c, :])
        y = y + layers.conv3d_of_repeated(image, kernel[..., c:, :], volume.shape[1])
        return y + bias.astype(self.dtype)


class Motion(NamedTuple):
    """Where each voxel reads the source [b, d, h, w, 3], and two occlusions [b, h, w, 1] in [0, 1]."""

    deformation: Array
    occlusion: Array
    occlusion_2: Array


class MotionField(nn.Module):
    """Dense motion from sparse key points: compressed source volume [b, d, h, w, c], key points [b, k, 3] -> `Motion`.

    `version` 2 sees the target's head [b, mid, mid, 4] (image and weights), whose features enter before the masks.
    """

    version: Literal[1, 2] = 2
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    head_width: int = 32
    head_residuals: int = 3
    kernel_size: int = 7
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, volume: Array, source: Array, target: Array, head: Array, *, train: bool = False) -> Motion:
        heat = heatmaps(source, target, volume.shape[1:4])
        warped = shifted_volumes(volume, source, target)
        x = jnp.concatenate([heat[..., None].astype(warped.dtype), warped], axis=-1)
        x = jnp.moveaxis(x, 1, 4)  # [b, d, h, w, s, 1 + c]
        x = x.reshape(*x.shape[:4], -1)
        x = Hourglass(self.widths, self.dtype, name="hourglass")(x, train=train)
        if self.version == 2:
            encoder = HeadEncoder(self.head_width, self.head_residuals, self.dtype, name="head_encoder")
            seen = encoder(head, (volume.shape[2], volume.shape[3]), train=train)
            x = HeadFuser(self.head_width, self.kernel_size, self.dtype, name="head_fuser")(x, seen)
        mask = Conv(source.shape[1] + 1, self.kernel_size, 3, dtype=self.dtype, name="mask")(x)
        mask = nn.softmax(mask.astype(jnp.float32))
        # The masks sum to one and the motions differ from the identity by a constant each.
        moved = jnp.einsum("bdhwk,bkc->bdhwc", mask[..., 1:], source - target, precision=lax.Precision.HIGHEST)
        flat = to_image(x)
        occlusions = [
            nn.sigmoid(Conv(1, self.kernel_size, dtype=self.dtype, name=name)(flat).astype(jnp.float32))
            for name in ("occlusion", "occlusion_2")
        ]
        return Motion(coordinate_grid(volume.shape[1:4]) + moved, *occlusions)


class Generator(nn.Module):
    """Deformed volume as an image [b, h, w, c * d] -> RGB [b, mid, mid, 3] and features [b, mid, mid, widths[-1]]."""

    widths: tuple[int, ...] = (256, 128, 64)
    residuals: int = 6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        stem = ConvBlock(self.widths[0], spectral=True, slope=0.2, dtype=self.dtype, name="stem")
        x = Conv(self.widths[0], 1, dtype=self.dtype, name="mix")(stem(x, train=train))
        for i in range(self.residuals):
            x = ResBlock(spectral=True, dtype=self.dtype, name=f"res{i}")(x, train=train)
        for i, width in enumerate(self.widths[1:]):
            x = layers.upsample_nearest(x)
            x = ConvBlock(width, spectral=True, dtype=self.dtype, name=f"up{i}")(x, train=train)
        return Conv(3, 7, dtype=self.dtype, name="rgb")(x).astype(jnp.float32), x


class OcclusionRefiner(nn.Module):
    """Features and coarse occlusion [b, mid, mid, c + 1] -> occlusion [b, mid, mid, 1] in [0, 1]."""

    widths: tuple[int, ...] = (32, 32)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate(self.widths):
            x = nn.relu(Conv(width, dtype=self.dtype, name=f"conv{i}")(x))
        return nn.sigmoid(Conv(1, dtype=self.dtype, name="out")(x).astype(jnp.float32))


class TorsoCache(NamedTuple):
    """What of the torso does not change with time, [b, d, h, w, c] each: masked features, and few channels of them."""

    features: Array
    compressed: Array


class TorsoOutput(NamedTuple):
    """RGB [b, mid, mid, 3], its features [b, mid, mid, c], the refined occlusion [b, mid, mid, 1] and the motion field.

    `motion.deformation` and the occlusions pass a tenth of their gradient.
    """

    rgb: Array
    hidden: Array
    occlusion_2: Array
    motion: Motion


class TorsoModel(nn.Module):
    """The torso at the pose of the target; `encode` once a portrait, `decode` a frame, calling it does both.

    Fields: `version` 2 (released) lets the motion see the target's head; `alpha_input` (released) gives the appearance
    the two torso class maps beside RGB; `keypoints` 4 or 9 of the 68 landmarks, or any number of points from elsewhere
    without `landmarks`.
    """

    version: Literal[1, 2] = 2
    alpha_input: bool = True
    keypoints: int = 4
    landmarks: bool = True
    appearance_widths: tuple[int, ...] = (64, 128, 256)
    volume_channels: int = 32
    volume_depth: int = 16
    appearance_residuals: int = 6
    compressed_channels: int = 4
    motion_widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    motion_kernel: int = 7
    head_width: int = 32
    head_residuals: int = 3
    generator_widths: tuple[int, ...] = (256, 128, 64)
    generator_residuals: int = 6
    refiner_widths: tuple[int, ...] = (32, 32)
    mask_dilation: int = 7
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.landmarks and self.keypoints not in KEYPOINTS:
            raise InputError(f"torso keypoints is {self.keypoints}: choose one of {sorted(KEYPOINTS)}")
        if len(self.appearance_widths) != len(self.generator_widths):
            raise InputError(
                f"the torso's appearance goes down {len(self.appearance_widths) - 1} times and its generator up "
                f"{len(self.generator_widths) - 1} times: give both as many widths"
            )
        self.appearance = AppearanceExtractor(
            self.appearance_widths, self.volume_channels, self.volume_depth, self.appearance_residuals, self.dtype
        )
        self.compress = Conv(self.compressed_channels, 1, 3, dtype=self.dtype)
        self.motion = MotionField(
            self.version, self.motion_widths, self.head_width, self.head_residuals, self.motion_kernel, self.dtype
        )
        self.generator = Generator(self.generator_widths, self.generator_residuals, self.dtype)
        self.occlusion_refiner = OcclusionRefiner(self.refiner_widths, self.dtype)

    def encode(self, image: Array, segmap: Array, *, train: bool = False) -> TorsoCache:
        """Features of the source torso.

        Args:
          image: [b, mid, mid, 3] in [-1, 1], the torso on black.
          segmap: [b, h, w, 6], one-hot (or soft) classes of the source image.
          train: batch statistics in the normalisation layers.
        """
        downs = len(self.appearance_widths) - 1
        smallest = 2 ** (downs + len(self.motion_widths))
        if image.shape[1] != image.shape[2] or image.shape[1] % smallest or segmap.shape[-1] != 6:
            raise InputError(
                f"the torso image is {image.shape[1]}x{image.shape[2]} with {segmap.shape[-1]} classes; expected a "
                f"square image whose side is a multiple of {smallest}, and 6 classes"
            )
        maps = segmap[..., TORSO_CLASSES].astype(jnp.float32)
        if self.alpha_input:
            image = jnp.concatenate([image, layers.resize(maps, (image.shape[1], image.shape[2]))], axis=-1)
        features = self.appearance(image, train=train)
        small = layers.resize(maps, (features.shape[2], features.shape[3]))
        mask = layers.dilate(small.sum(-1, keepdims=True), self.mask_dilation)
        features = features * mask[:, None].astype(features.dtype)
        small = jnp.broadcast_to(small[:, None].astype(features.dtype), (*features.shape[:4], small.shape[-1]))
        return TorsoCache(features, self.compress(jnp.concatenate([features, small], axis=-1)))

    def decode(
        self,
        cache: TorsoCache,
        source_keypoints: Array,
        target_keypoints: Array,
        head_rgb: Array,
        head_weights: Array,
        *,
        train: bool = False,
    ) -> TorsoOutput:
        """The torso of a frame.

        Args:
          cache: from `encode`, of batch b or 1.
          source_keypoints: [b, 68, 3] in [-1, 1], or [b, keypoints, 3] without `landmarks`.
          target_keypoints: likewise.
          head_rgb: [b, mid, mid, 3], the target's head (version 2 looks at it).
          head_weights: [b, mid, mid, 1], its weight sums (version 2).
          train: batch statistics in the normalisation layers.
        """
        count = 68 if self.landmarks else self.keypoints
        if source_keypoints.shape[1:] != (count, 3) or target_keypoints.shape[1:] != (count, 3):
            raise InputError(
                f"key points have shapes {source_keypoints.shape} and {target_keypoints.shape}; expected "
                f"[b, {count}, 3]"
            )
        chosen = np.asarray(KEYPOINTS[self.keypoints]) if self.landmarks else np.arange(count)
        source, target = source_keypoints[:, chosen], target_keypoints[:, chosen]
        b = target.shape[0]
        features, compressed = (jnp.broadcast_to(a, (b, *a.shape[1:])) for a in cache)
        head = jnp.concatenate([head_rgb, head_weights], axis=-1)
        motion = self.motion(compressed, jnp.broadcast_to(source, target.shape), target, head, train=train)
        motion = Motion(*(scale_gradient(a, MOTION_GRADIENT) for a in motion))
        deformed = layers.grid_sample(features, motion.deformation, padding="border", align_corners=True)
        rgb, hidden = self.generator(to_image(deformed), train=train)
        coarse = layers.resize(motion.occlusion_2, (rgb.shape[1], rgb.shape[2])).astype(hidden.dtype)
        occlusion_2 = self.occlusion_refiner(jnp.concatenate([hidden, coarse], axis=-1))
        return TorsoOutput(rgb, hidden, occlusion_2, motion)

    def __call__(
        self,
        image: Array,
        segmap: Array,
        source_keypoints: Array,
        target_keypoints: Array,
        head_rgb: Array,
        head_weights: Array,
        *,
        train: bool = False,
    ) -> TorsoOutput:
        """`decode(encode(image, segmap), ...)`."""
        cache = self.encode(image, segmap, train=train)
        return self.decode(cache, source_keypoints, target_keypoints, head_rgb, head_weights, train=train)


# ------------------------------------------------------------------------------------------------ motion
def _axis(n: int) -> Array:
    return jnp.linspace(-1.0, 1.0, n)


def coordinate_grid(shape: tuple[int, ...]) -> Array:
    """[d, h, w, 3] positions of the voxels of a (d, h, w) volume."""
    d, h, w = shape
    z, y, x = jnp.meshgrid(_axis(d), _axis(h), _axis(w), indexing="ij")
    return jnp.stack([x, y, z], axis=-1)


def gaussians(keypoints: Array, shape: tuple[int, ...]) -> Array:
    """exp(-|p - keypoint|^2 / (2 * 0.01)) at every voxel: [b, k, 3] -> [b, k, d, h, w]."""
    d, h, w = shape
    x, y, z = (
        jnp.exp(-0.5 / HEATMAP_VARIANCE * (_axis(n) - keypoints[..., i, None]) ** 2) for i, n in enumerate((w, h, d))
    )
    return z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]


def heatmaps(source: Array, target: Array, shape: tuple[int, ...]) -> Array:
    """Gaussians of the target minus those of the source, zeros for "no motion": [b, k, 3] x 2 -> [b, s, d, h, w]."""
    heat = gaussians(target, shape) - gaussians(source, shape)
    return jnp.pad(heat, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))


def shifted_volumes(volume: Array, source: Array, target: Array) -> Array:
    """The volume read at p - target + source for each key point, and as it is: [b, d, h, w, c] -> [b, s, d, h, w, c].

    Trilinear, zeros outside. Each motion is a translation, so the interpolation is separable: a small matrix an axis,
    max(0, 1 - |i + shift - j|) for output i and input j, instead of eight gathers a voxel.
    """
    shift = source - target
    out = volume.astype(jnp.float32)[:, None]
    for axis, (n, spec) in enumerate(
        zip(volume.shape[3:0:-1], ("bkxw,bkdhwc->bkdhxc", "bkyh,bkdhwc->bkdywc", "bkzd,bkdhwc->bkzhwc"), strict=True)
    ):
        place = jnp.arange(n) + shift[..., axis, None] * ((n - 1) / 2)
        weights = jnp.maximum(0, 1 - jnp.abs(place[..., None] - jnp.arange(n)))
        out = jnp.einsum(
            spec, weights, jnp.broadcast_to(out, (*shift.shape[:2], *out.shape[2:])), precision=lax.Precision.HIGHEST
        )
    return jnp.concatenate([volume[:, None], out.astype(volume.dtype)], axis=1)


def scale_gradient(x: Array, scale: float) -> Array:
    """`x` whose gradient is multiplied by `scale`."""
    return x * scale + lax.stop_gradient(x) * (1 - scale)


# ------------------------------------------------------------------------------------------------ regularisers
def _resize_nearest(x: Array, height: int, width: int) -> Array:
    rows = np.arange(height) * x.shape[1] // height
    columns = np.arange(width) * x.shape[2] // width
    return x[:, rows[:, None], columns]


def occlusion_losses(output: TorsoOutput, target_torso: Array | None = None) -> Mapping[str, Array]:
    """The regularisers of the torso's training, scalars.

    Args:
      output: of the torso model.
      target_torso: [b, h, w] or [b, h, w, 1], 1 on the torso of the target image; None weighs all pixels alike.

    Returns:
      `occlusion_l1`, `occlusion_2_l1`: means of the occlusions, weighted 0.3 on the target's torso and 1 off it;
      `occlusion_2_entropy`: mean binary entropy in bits of the refined occlusion.

    The official code multiplies [b, h, w] by [b, 1, h, w], which for b > 1 weighs every sample by every other's mask;
    here each sample has its own.
    """
    weights: Array | None = None
    if target_torso is not None:
        weights = target_torso.reshape(*target_torso.shape[:3], 1).astype(jnp.float32)

    def weighted_mean(occlusion: Array) -> Array:
        if weights is None:
            return occlusion.mean()
        on_torso = _resize_nearest(weights, occlusion.shape[1], occlusion.shape[2])
        return (occlusion * (1 - 0.7 * on_torso)).mean()

    p = jnp.clip(output.occlusion_2, 1e-5, 1 - 1e-5)
    entropy = -(p * jnp.log2(p) + (1 - p) * jnp.log2(1 - p))
    return {
        "occlusion_l1": weighted_mean(output.motion.occlusion),
        "occlusion_2_l1": weighted_mean(output.occlusion_2),
        "occlusion_2_entropy": entropy.mean(),
    }
