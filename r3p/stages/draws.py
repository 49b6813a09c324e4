"""Random numbers that belong to an example, not to its place in a batch or to the device that holds it.

So a step computes the same on any number of devices and processes. The numbers come from a hash of the example's
number, the step's key and a name: it compiles to a few operations, whatever generator the step's key is of.
"""

import zlib

import jax
import jax.numpy as jnp

Array = jax.Array


def _mixed(x: Array) -> Array:
    """A bijection of uint32 without visible patterns ("lowbias32" of C. Wellons' hash prospector)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


class Draws:
    """Draws of one step for the examples numbered `example` [b] (any integers)."""

    def __init__(self, example: Array, rng: Array) -> None:
        self._seed = _mixed(_mixed(example.astype(jnp.uint32)) ^ jax.random.bits(rng, (), jnp.uint32))

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Array:
        """[b, *shape] in [0, 1); other names are independent."""
        count = 1
        for size in shape:
            count *= size
        seed = _mixed(self._seed ^ jnp.uint32(zlib.crc32(name.encode())))
        place = _mixed(jnp.arange(count, dtype=jnp.uint32) + jnp.uint32(0x9E3779B9))
        bits = _mixed(seed[:, None] + place[None])
        return ((bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)).reshape(-1, *shape)

    def normal(self, name: str, shape: tuple[int, ...] = ()) -> Array:
        """[b, *shape], standard normal."""
        u = jnp.clip(self.uniform(name, shape), 2**-24, 1 - 2**-24)
        return jnp.sqrt(2.0) * jax.scipy.special.erfinv(2 * u - 1)
