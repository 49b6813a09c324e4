"""The radiance decoder: tri-plane features to colour and density (EG3D's OSG decoder)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

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
