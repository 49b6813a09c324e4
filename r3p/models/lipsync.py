"""SyncNet v2 (Chung and Zisserman 2016, "Out of time"), the network of LSE-C and LSE-D.

Five frames of a face and the 0.2 s of sound that belong to them become two vectors, whose distance says how well they
agree. Shapes: b clips, t frames, h w, c channels.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from r3p.models.norms import BatchNorm

Array = jax.Array
FRAMES, SIDE = 5, 224  # of a clip of faces
STEPS, COEFFICIENTS = 20, 13  # of a clip of sound: steps of 10 ms


def _unit(x: Array, features: int, kernel: Sequence[int], strides: Sequence[int], padding: Any, name: str) -> Array:
    x = nn.Conv(features, kernel, strides, padding, precision="highest", name=f"{name}_conv")(x)
    return nn.relu(BatchNorm(name=f"{name}_norm")(x))


class Top(nn.Module):
    """Two dense layers: [b, c] -> [b, embedding]."""

    width: int
    embedding: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(BatchNorm(name="norm")(nn.Dense(self.width, precision="highest", name="first")(x)))
        return nn.Dense(self.embedding, precision="highest", name="last")(x)


class Sound(nn.Module):
    """Cepstra [b, 13, 20, 1] -> [b, embedding]. widths: of the six convolutions."""

    widths: Sequence[int]
    width: int
    embedding: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        same = [(1, 1), (1, 1)]
        for k, width in enumerate(self.widths[:-1]):
            x = _unit(x, width, (3, 3), (1, 1), same, f"layer{k}")
            if k == 1:
                x = nn.max_pool(x, (3, 3), (1, 2))
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = _unit(x, self.widths[-1], (5, 4), (1, 1), "VALID", f"layer{len(self.widths) - 1}")
        return Top(self.width, self.embedding, name="top")(x.reshape(len(x), -1))


class Lips(nn.Module):
    """Faces [b, 5, 224, 224, 3] -> [b, embedding]. widths: of the six convolutions."""

    widths: Sequence[int]
    width: int
    embedding: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        around = [(0, 0), (1, 1), (1, 1)]
        x = _unit(x, self.widths[0], (5, 7, 7), (1, 2, 2), "VALID", "layer0")
        x = nn.max_pool(x, (1, 3, 3), (1, 2, 2))
        x = _unit(x, self.widths[1], (1, 5, 5), (1, 2, 2), around, "layer1")
        x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), around)
        for k, width in enumerate(self.widths[2:-1]):
            x = _unit(x, width, (1, 3, 3), (1, 1, 1), around, f"layer{k + 2}")
        x = nn.max_pool(x, (1, 3, 3), (1, 2, 2))
        x = _unit(x, self.widths[-1], (1, 6, 6), (1, 1, 1), "VALID", f"layer{len(self.widths) - 1}")
        return Top(self.width, self.embedding, name="top")(x.reshape(len(x), -1))


class LipSync(nn.Module):
    """Both networks; the defaults are the published ones.

    Attributes:
      sound_widths, lip_widths: channels of their convolutions.
      width: of the dense layer in between.
      embedding: numbers of a clip.
    """

    sound_widths: Sequence[int] = (64, 192, 384, 256, 256, 512)
    lip_widths: Sequence[int] = (96, 256, 256, 256, 256, 512)
    width: int = 512
    embedding: int = 1024

    def setup(self) -> None:
        self.sound = Sound(self.sound_widths, self.width, self.embedding)
        self.lips = Lips(self.lip_widths, self.width, self.embedding)

    def __call__(self, faces: Array, cepstra: Array) -> tuple[Array, Array]:
        """Embeddings [b, e] of faces [b, 5, 224, 224, 3], BGR in 0..255, and of cepstra [b, 13, 20, 1]."""
        return self.lips(faces), self.sound(cepstra)
