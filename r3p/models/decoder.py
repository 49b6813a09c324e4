"""The radiance decoder: tri-plane features to colour and density (EG3D's OSG decoder), and rendering through it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r3p import camera as cameras
from r3p import render
from r3p.models.layers import EqualisedDense

Array = jax.Array


def _softplus(x: Array) -> Array:
    # log(1 + e) has the same absolute error as log1p here and is twice as fast on a processor.
    return jnp.maximum(x, 0) + jnp.log(1 + jnp.exp(-jnp.abs(x)))


def _sigmoid(x: Array) -> Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


class Decoder(nn.Module):
    """Two layers of features averaged over the planes; the view direction is not used.

    Attributes:
      hidden: width between the two layers.
      features: f, colour channels; the first three are the image.
    """

    hidden: int = 64
    features: int = 32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[..., c] -> colour [..., f] in about [-.001, 1.001], density [..., 1]."""
        x = _softplus(EqualisedDense(self.hidden, name="hidden_layer")(x))
        x = EqualisedDense(1 + self.features, name="out")(x)
        return _sigmoid(x[..., 1:]) * 1.002 - 0.001, x[..., :1]


class Head(NamedTuple):
    """A rendered head, before super-resolution; nothing is clamped. f: features of the decoder."""

    rgb: Array  # [b, h, w, 3] in about [-1, 1]
    feature: Array  # [b, h, w, f]; the first three channels are rgb
    depth: Array  # [b, h, w, 1], world units along the ray
    weight: Array  # [b, h, w, 1], opacity in [0, 1]


def render_head(decoder: Decoder, planes: Array, camera: Array, side: int, **options: Any) -> Head:
    """Renders side x side rays of a camera.

    Args:
      decoder: a submodule of the module that calls this; its parameters are made here when that one initialises.
      planes: [b, 3, h, w, c].
      camera: [b, 25].
      options: of `r3p.render.render`; jitter and u are [b, side**2, coarse] and [b, side**2, fine].
    """
    if decoder.is_initializing():
        decoder(planes[:, 0, 0, 0])  # makes the parameters, which are read outside of the module below
    decoder, variables = decoder.unbind()

    def decode(x: Array) -> Any:
        return decoder.apply(variables, x)

    out = render.render(planes, decode, *cameras.rays(camera, side), **options)
    feature, depth, weight = (a.reshape(a.shape[0], side, side, -1) for a in (out.feature, out.depth, out.weight))
    return Head(feature[..., :3], feature, depth, weight)
