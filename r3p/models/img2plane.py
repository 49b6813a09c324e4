"""Image to tri-planes: a photograph of a head to its canonical tri-planes, in one pass (Real3D-Portrait, section 3.1).

A dilated ResNet with atrous pyramid pooling (DeepLabV3, Chen et al. 2017) and a transformer on it see the image
coarsely, plain convolutions see it finely, and a transformer with convolutions fuses the two (after Live 3D Portrait,
Trevithick et al. 2023). Shapes: b batch, h w image, c channels; the planes have half the image's sides.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from r3p.errors import InputError
from r3p.models import convolution, layers
from r3p.models.norms import BatchNorm
from r3p.models.planes import to_planes
from r3p.models.segformer import CONV_INIT, DENSE_INIT, LINEAR_INIT, RELU_INIT, Block, PatchEmbed

Array = jax.Array
InputMode = Literal["rgb", "rgb_alpha", "rgb_camera", "rgb_alpha_camera"]
INPUT_MODES = ("rgb", "rgb_alpha", "rgb_camera", "rgb_alpha_camera")

BACKBONE_BLOCKS = {"small": (2, 1), "standard": (5, 1), "large": (10, 3)}  # low-resolution and fusing blocks


class Conv(nn.Module):
    """Convolution with PyTorch's padding: [b, h, w, c] -> [b, h / stride, w / stride, features]."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    kernel_init: Any = RELU_INIT
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k, p = self.kernel_size, self.dilation * (self.kernel_size // 2)
        return convolution.Conv(
            self.features,
            (k, k),
            (self.stride, self.stride),
            ((p, p), (p, p)),
            kernel_dilation=(self.dilation, self.dilation),
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)


class ResidualBlock(nn.Module):
    """ResNet's basic block: two 3x3 convolutions with batch norm, every one of them dilated."""

    features: int
    stride: int = 1
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        def conv(features: int, kernel_size: int, stride: int, dilation: int, name: str) -> Conv:
            return Conv(features, kernel_size, stride, dilation, False, CONV_INIT, self.dtype, name=name)

        y = conv(self.features, 3, self.stride, self.dilation, "conv0")(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm0")(y, train=train))
        y = conv(self.features, 3, 1, self.dilation, "conv1")(y)
        y = BatchNorm(dtype=self.dtype, name="norm1")(y, train=train)
        if x.shape[-1] != self.features or self.stride != 1:
            x = conv(self.features, 1, self.stride, 1, "shortcut")(x)
            x = BatchNorm(dtype=self.dtype, name="shortcut_norm")(x, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet-34 made dilated, so that it shrinks eight times only: [b, h, w, c] -> stem and stages.

    Returns five feature images: the stem's (half size), then those of the stages (1/4, 1/8, 1/8, 1/8).
    """

    widths: Sequence[int] = (64, 128, 256, 512)
    blocks: Sequence[int] = (3, 4, 6, 3)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> list[Array]:
        x = Conv(self.widths[0], 7, 2, 1, False, CONV_INIT, self.dtype, name="stem")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="stem_norm")(x, train=train))
        stages = [x]
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for i, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            stride, dilation = ((1, 1), (2, 1), (1, 2), (1, 4))[i]
            for j in range(blocks):
                block = ResidualBlock(width, stride if j == 0 else 1, dilation, self.dtype, name=f"block{i}_{j}")
                x = block(x, train=train)
            stages.append(x)
        return stages


class PyramidPooling(nn.Module):
    """Atrous pyramid pooling without norms: five views joined, [b, h, w, c] -> [b, h, w, width]."""

    width: int = 256
    rates: Sequence[int] = (12, 24, 36)
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        def conv(kernel_size: int, dilation: int, name: str) -> Conv:
            return Conv(self.width, kernel_size, 1, dilation, False, dtype=self.dtype, name=name)

        views = [conv(1, 1, "point")(x)]
        views += [conv(3, rate, f"rate{i}")(x) for i, rate in enumerate(self.rates)]
        mean = conv(1, 1, "mean")(x.mean((1, 2), keepdims=True))
        views.append(jnp.broadcast_to(mean, views[0].shape))
        x = nn.relu(conv(1, 1, "project")(nn.relu(jnp.concatenate(views, axis=-1))))
        return nn.Dropout(self.dropout, deterministic=not train, name="drop")(x)


class LowResolutionEncoder(nn.Module):
    """DeepLabV3: dilated ResNet, pyramid pooling, a last convolution: [b, h, w, c] -> [b, h / 8, w / 8, width]."""

    resnet: Mapping[str, Any] = FrozenDict()
    pooling: Mapping[str, Any] = FrozenDict()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        x = ResNet(**self.resnet, dtype=self.dtype, name="resnet")(x, train=train)[-1]
        x = PyramidPooling(**self.pooling, dtype=self.dtype, name="pooling")(x, train=train)
        return Conv(x.shape[-1], use_bias=False, kernel_init=LINEAR_INIT, dtype=self.dtype, name="out")(x)


def pixel_shuffle(x: Array) -> Array:
    """Channels to pixels: [b, h, w, 4 c] -> [b, 2 h, 2 w, c], the channel c * 4 + row * 2 + column."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // 4, 2, 2)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)


class LowResolutionViT(nn.Module):
    """Transformer on the coarse features, then four times larger: [b, h, w, c] -> [b, 4 h, 4 w, features].

    Attributes:
      width, blocks, heads, ratio: of the transformer, at half the size of its input.
      convs: channels of the convolutions after the first and second enlargement.
      features: of the output.
    """

    width: int = 1024
    blocks: int = 5
    heads: int = 4
    ratio: int = 2
    convs: Sequence[int] = (128, 128)
    features: int = 96
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        x = PatchEmbed(self.width, dtype=self.dtype, name="embed")(x)
        for i in range(self.blocks):
            x = block(self.heads, self.ratio, dtype=self.dtype, name=f"block{i}")(x, train)
        x = pixel_shuffle(x)
        for i, width in enumerate(self.convs):
            x = layers.resize(x, (2 * x.shape[1], 2 * x.shape[2]), align_corners=True)
            x = nn.relu(Conv(width, dtype=self.dtype, name=f"conv{i}")(x))
        return Conv(self.features, kernel_init=LINEAR_INIT, dtype=self.dtype, name="out")(x)


class HighResolutionEncoder(nn.Module):
    """Convolutions at half size, without norm: [b, h, w, c] -> [b, h / 2, w / 2, width].

    The first convolution is linear, as in the original (its activation is defined and never called).
    """

    stem: int = 64
    width: int = 96
    convs: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.stem, 7, 2, kernel_init=LINEAR_INIT, dtype=self.dtype, name="stem")(x)
        for i in range(self.convs):
            x = nn.leaky_relu(Conv(self.width, dtype=self.dtype, name=f"conv{i}")(x), 0.01)
        return Conv(self.width, kernel_init=LINEAR_INIT, dtype=self.dtype, name="out")(x)


class FusionViT(nn.Module):
    """Fuses both branches [b, h, w, c]: convolutions, transformer at half size, convolutions -> [b, h, w, channels].

    Attributes:
      channels: of the output.
      before, after: channels of the convolutions before and after the transformer.
      width, blocks, heads, ratio, reduction: of the transformer.
    """

    channels: int = 96
    before: Sequence[int] = (256, 128)
    width: int = 1024
    blocks: int = 1
    heads: int = 4
    ratio: int = 2
    reduction: int = 2
    after: Sequence[int] = (256, 128, 128)
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, low: Array, high: Array, *, train: bool = False) -> Array:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        x = jnp.concatenate([low, high], axis=-1)
        for i, width in enumerate(self.before):
            x = nn.leaky_relu(Conv(width, dtype=self.dtype, name=f"before{i}")(x), 0.01)
        x = PatchEmbed(self.width, dtype=self.dtype, name="embed")(x)
        for i in range(self.blocks):
            x = block(self.heads, self.ratio, self.reduction, dtype=self.dtype, name=f"block{i}")(x, train)
        x = jnp.concatenate([pixel_shuffle(x), low], axis=-1)
        for i, width in enumerate(self.after):
            x = nn.leaky_relu(Conv(width, dtype=self.dtype, name=f"after{i}")(x), 0.01)
        return Conv(self.channels, kernel_init=LINEAR_INIT, dtype=self.dtype, name="out")(x)


class ImageToPlanes(nn.Module):
    """The composite image-to-plane network; the defaults are the released one (87.3 M parameters, 512^2 images).

    Attributes:
      channels: c of a plane; depth: slices of a tri-grid, 1 for tri-planes.
      input_mode: what it sees beside RGB and the pixel's place: an alpha mask, the camera, or both.
      resnet, pooling, low, high, fusion: fields of the parts, see their classes.
    """

    channels: int = 32
    depth: int = 1
    input_mode: InputMode = "rgb"
    resnet: Mapping[str, Any] = FrozenDict()
    pooling: Mapping[str, Any] = FrozenDict()
    low: Mapping[str, Any] = FrozenDict()
    high: Mapping[str, Any] = FrozenDict()
    fusion: Mapping[str, Any] = FrozenDict()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Array, alpha: Array | None = None, camera: Array | None = None, *, train: bool = False
    ) -> Array:
        """Canonical planes of images.

        Args:
          image: [b, h, w, 3] in [-1, 1], square, sides a multiple of 32.
          alpha: [b, h, w, 1] in the alpha modes; None = where the image is not black.
          camera: [b, 25] in the camera modes.
          train: batch statistics and dropout (rng `dropout`).

        Returns:
          float32 [b, 3, (d,) h / 2, w / 2, c].

        Raises:
          InputError: for a size or an input that does not fit.
        """
        b, h, w, c = image.shape
        if h != w or h % 32 or c != 3:
            raise InputError(
                f"image-to-plane got {h}x{w}x{c}; resize to a square of 3 channels, sides a multiple of 32"
            )
        if self.input_mode not in INPUT_MODES:
            raise InputError(f"input mode {self.input_mode!r} is unknown: choose one of {', '.join(INPUT_MODES)}")
        parts = [image]
        if "alpha" in self.input_mode:
            parts.append((image.mean(-1, keepdims=True) >= -0.999) if alpha is None else alpha)
        if "camera" in self.input_mode:
            if camera is None:
                raise InputError(f"input mode {self.input_mode!r} needs the camera of the image, [b, 25]")
            seen = nn.Dense(3, kernel_init=DENSE_INIT, name="camera")(camera)
            parts.append(jnp.broadcast_to(seen[:, None, None], (b, h, w, 3)))
        place = jnp.arange(h, dtype=jnp.float32) / h
        rows, columns = jnp.meshgrid(place, place, indexing="ij")
        parts.append(jnp.broadcast_to(jnp.stack([rows, columns], axis=-1), (b, h, w, 2)))
        x = jnp.concatenate([p.astype(self.dtype) for p in parts], axis=-1)

        low = LowResolutionEncoder(self.resnet, self.pooling, self.dtype, name="low_encoder")(x, train=train)
        low = LowResolutionViT(**self.low, dtype=self.dtype, name="low_vit")(low, train=train)
        high = HighResolutionEncoder(**self.high, dtype=self.dtype, name="high_encoder")(x)
        out = 3 * self.channels * self.depth
        x = FusionViT(out, **self.fusion, dtype=self.dtype, name="fusion")(low, high, train=train)
        return to_planes(x, self.depth)
