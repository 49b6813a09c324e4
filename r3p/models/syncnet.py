"""SyncNet: do these sounds and these mouths belong together? (Real3D-Portrait's expert of lip synchrony.)

Two stacks of convolutions over time, after SyncNet (Chung and Zisserman 2016), give one unit vector for a short clip of
speech features and one for the landmarks of the same clip; their cosine says how well the two agree. The last
activation is a ReLU: vectors have no negative entry, so the cosine is in [0, 1] and is read as a probability.

Shapes: b clips, t frames, c channels, e embedding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r3p.errors import InputError
from r3p.models.audio2motion import Conv
from r3p.models.norms import BatchNorm

Array = jax.Array

# As torch's binary cross entropy: a certain mistake costs 100 nats, not infinitely many.
LOG_FLOOR = -100.0


class Embeddings(NamedTuple):
    """Unit vectors [b, e] of clips."""

    audio: Array
    mouth: Array


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU: [b, t, c] -> [b, t', features]; `residual` adds the input before the ReLU."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 1
    residual: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        y = Conv(self.features, self.kernel_size, self.stride, self.padding, name="conv")(x)
        y = BatchNorm(name="norm")(y, train=train)
        return nn.relu(y + x if self.residual else y)


class ClipEncoder(nn.Module):
    """A clip to a unit vector: [b, t, c] -> [b, features].

    Attributes:
      features: of the vector.
      stem: channels of the first convolution.
      widths: channels of the levels, each a convolution and residual ones.
      strides: of the first convolution of every level.
      depth: convolutions of a level.
    """

    features: int = 1024
    stem: int = 128
    widths: Sequence[int] = (128, 256, 512)
    strides: Sequence[int] = (1, 2, 2)
    depth: int = 3

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        frames, last = x.shape[1], self.widths[-1]
        blocks = [ConvBlock(self.stem, name="block0")]

        def add(features: int, kernel: int = 3, stride: int = 1, padding: int = 1, residual: bool = False) -> None:
            blocks.append(ConvBlock(features, kernel, stride, padding, residual, name=f"block{len(blocks)}"))

        for width, stride in zip(self.widths, self.strides, strict=True):
            add(width, stride=stride)
            for _ in range(self.depth - 1):
                add(width, residual=True)
        add(last)
        add(last, padding=0)  # three frames become one
        add(last, kernel=1, padding=0)
        add(self.features, kernel=1, padding=0)
        for block in blocks:
            x = block(x, train=train)
        if x.shape[1] != 1:
            raise InputError(
                f"a clip of {frames} frames ends as {x.shape[1]}, not as one: give 9 to 12 frames of sound and 5 or 6 "
                f"of landmarks, or change the strides {tuple(self.strides)}"
            )
        # The floor is torch's: a clip that activates nothing gives a zero vector and a finite gradient.
        x = x[:, 0]
        return x / jnp.maximum(jnp.sqrt(jnp.maximum(jnp.sum(x**2, -1, keepdims=True), 1e-30)), 1e-12)


class SyncNet(nn.Module):
    """Sound and mouth of clips to unit vectors.

    The defaults are the expert of the audio-to-motion training (10.75 M parameters with HuBERT 1024 and the offsets of
    468 landmarks); `SyncNet(features=512)` on 20 lip landmarks is the class default of the original.

    Attributes:
      features: of the embedding.
      width: channels of the first level; the next have twice and four times as many.
      mouth_stem: channels of the first convolution over the landmarks.
      depth: convolutions of a level.
    """

    features: int = 1024
    width: int = 128
    mouth_stem: int = 96
    depth: int = 3

    def setup(self) -> None:
        widths = tuple(self.width * k for k in (1, 2, 4))
        self.audio_encoder = ClipEncoder(self.features, self.width, widths, (1, 2, 2), self.depth)
        # Landmarks come at half the rate of the sound: one halving less.
        self.mouth_encoder = ClipEncoder(self.features, self.mouth_stem, widths, (1, 2, 1), self.depth)

    def __call__(self, audio: Array, mouth: Array, *, train: bool = False) -> Embeddings:
        """Embeddings of `audio` [b, 10, c] at 50 Hz and `mouth` [b, 5, 3 landmarks] at 25 Hz.

        `train` takes the batch's own statistics; `batch_stats` must then be mutable.

        Raises:
          InputError: at trace time, for clips so long or short that they do not end as one frame.
        """
        return Embeddings(self.audio_encoder(audio, train=train), self.mouth_encoder(mouth, train=train))


def cosine(audio: Array, mouth: Array) -> Array:
    """Cosine [b] of embeddings [b, e]."""
    return jnp.sum(audio * mouth, -1)


def confidence(audio: Array, mouth: Array) -> Array:
    """Cosines [b, b'] of every sound [b, e] (rows) with every mouth [b', e] (columns)."""
    return audio @ mouth.T


def sync_loss(audio: Array, mouth: Array, label: Array) -> Array:
    """Binary cross entropy [b] in nats of the cosine; `label` [b] is 1 where sound and mouth are of the same moment.

    Where the cosine is exactly 0 or 1 the logarithm rests on its floor and gives no gradient.
    """
    p = jnp.clip(cosine(audio, mouth), 0.0, 1.0)
    label = label.astype(p.dtype)
    return -(label * _log(p) + (1 - label) * _log(1 - p))


def _log(p: Array) -> Array:
    return jnp.where(p > 0, jnp.maximum(jnp.log(jnp.where(p > 0, p, 1.0)), LOG_FLOOR), LOG_FLOOR)


def clip_loss(audio: Array, mouth: Array) -> Array:
    """Contrastive loss of CLIP (Radford et al. 2021) over a batch of true pairs [b, e], in nats, temperature 1.

    The original multiplies its learnt temperatures by zero; its trainings do not use this loss.
    """
    scores = confidence(audio, mouth)
    rows, columns = (jnp.diagonal(jax.nn.log_softmax(scores, axis)) for axis in (1, 0))
    return -(rows.mean() + columns.mean()) / 2
