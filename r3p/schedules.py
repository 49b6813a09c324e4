"""Learning rates and loss weights of the original's trainings, as pure functions of the optimiser's step.

Every function takes a step (a number or an array of them, traced or not) and gives float32 of its shape; the defaults
are the released configuration. A group whose rate is 0 is frozen.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

# Lazy regularisation every 16 steps counts as one step in 17 (Karras et al. 2020, appendix B).
DISCRIMINATOR_RATE = 2e-4 * 16 / 17


def stairs(step: Array | int, rate: float, *, factor: float, every: int, floor: float, warmup: int = 0) -> Array:
    """`rate` times `factor` for every `every` steps done, after a linear warm-up from 0; never below `floor`."""
    step = jnp.asarray(step)
    value = rate * factor ** (step // every).astype(jnp.float32)
    if warmup:
        value = jnp.where(step < warmup, rate * step / warmup, value)
    return jnp.maximum(value, floor).astype(jnp.float32)


def image_to_plane_rates(
    step: Array | int, *, rate: float = 1e-4, decoder_start: int = 2_000, adversarial_start: int = 30_000
) -> dict[str, Array]:
    """Of the image-to-plane stage: decoder and super-resolution join later, the discriminator's rate stays."""
    step = jnp.asarray(step)
    value = stairs(step, rate, factor=0.95, every=5_000, floor=1e-5, warmup=4_000)
    return {
        "img2plane": value,
        "decoder": jnp.where(step >= min(decoder_start, adversarial_start), value, 0.0),
        "superres": jnp.where(step >= adversarial_start, value, 0.0),
        "discriminator": jnp.full(step.shape, DISCRIMINATOR_RATE, jnp.float32),
    }


def head_rates(
    step: Array | int,
    *,
    rate: float = 1e-4,
    image_to_plane_factor: float = 1.0,
    image_to_plane_ramp: int = 220_000,
    image_to_plane_stop: int = 70_000,
    decoder_start: int = 6_000,
    superres_start: int = 30_000,
) -> dict[str, Array]:
    """Of the head stage: the adapter first, the other parts after it; image-to-plane slowly, and only for a while.

    Args:
      image_to_plane_factor: of its rate.
      image_to_plane_ramp: steps in which its rate would reach the others' (20,000 after the adversarial start); until
        `decoder_start` it has the floor's.
      image_to_plane_stop: the step from which it is frozen.
    """
    step, floor = jnp.asarray(step), 5e-6
    value = stairs(step, rate, factor=0.95, every=5_000, floor=floor, warmup=4_000)
    slow = image_to_plane_factor * jnp.minimum(step / image_to_plane_ramp, 1.0) * value
    slow = jnp.maximum(jnp.where(step > decoder_start, slow, 0.0), floor)
    return {
        "img2plane": jnp.where(step < image_to_plane_stop, slow, 0.0),
        "adapter": jnp.where(step > 0, value, 0.0),
        "decoder": jnp.where(step > decoder_start, value, 0.0),
        "superres": jnp.where(step > superres_start, value, 0.0),
        "discriminator": stairs(step, DISCRIMINATOR_RATE, factor=0.95, every=5_000, floor=floor),
    }


def torso_rates(step: Array | int, *, rate: float = 1e-5) -> dict[str, Array]:
    """Of the torso stage, which trains the fusing super-resolution alone."""
    return {
        "superres": stairs(step, rate, factor=0.5, every=50_000, floor=1e-6, warmup=4_000),
        "discriminator": stairs(step, DISCRIMINATOR_RATE, factor=0.5, every=50_000, floor=1e-6),
    }


def syncnet_rate(step: Array | int, *, rate: float = 1e-3) -> Array:
    """Of the SyncNet's training."""
    return stairs(step, rate, factor=0.98, every=5_000, floor=5e-5)


def audio_to_motion_rate(step: Array | int, *, rate: float = 5e-4, warmup: int = 1_000, decade: int = 250_000) -> Array:
    """Of audio-to-motion: a linear warm-up, then a tenth in `decade` steps, without stairs."""
    step = jnp.asarray(step)
    start = jnp.maximum(rate * step / warmup, 1e-7)
    return jnp.where(step <= warmup, start, jnp.maximum(rate * 0.1 ** (step / decade), 1e-6)).astype(jnp.float32)


def cyclic_weight(step: Array | int, *, top: float = 0.02, ramp: int = 2_000, hold: int = 2_000) -> Array:
    """Weight of the KL term: from 0 to `top` in `ramp` steps, held for `hold`, again from 0 (Fu et al. 2019)."""
    return (top * jnp.minimum((jnp.asarray(step) % (ramp + hold)) / ramp, 1.0)).astype(jnp.float32)
