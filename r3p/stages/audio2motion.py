"""Speech to expression: a conditional VAE with a flow prior (Real3D-Portrait, section 3.4), trained both ways.

A share of every batch is decoded from the posterior, as in the paper; the rest from what the prior gives for the sound,
at a random temperature. That is the path that inference takes, and at low temperature it has to follow the sound.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import face, sharding
from r3p.models.audio2motion import AudioToMotion
from r3p.stages import Batch, Stage
from r3p.state import TrainState, apply_gradients, create, make_optimizer

Array = jax.Array

# Weights of the units in the loss, by the beginning of their names; the first that fits counts.
UNIT_WEIGHTS = (
    ("jawOpen", 8.0), ("mouthClose", 8.0), ("mouthFunnel", 4.0), ("mouthPucker", 4.0), ("mouth", 3.0),
    ("eyeBlink", 1.0), ("", 0.5),
)  # fmt: skip

PRESSED_GAP = 0.015  # eye distances under the neutral face's lip gap: lips pressed together


def unit_weights(names: tuple[str, ...]) -> np.ndarray:
    """float32 [e] of `UNIT_WEIGHTS`."""
    return np.array([next(w for start, w in UNIT_WEIGHTS if name.startswith(start)) for name in names], np.float32)


def gap_direction(model: face.FaceModel) -> np.ndarray:
    """float32 [e]: how much each unit opens the inner lips of the mean head, in eye distances (signed, vertical)."""
    mean, moved = face.landmarks(model, model.mean), face.landmarks(model, model.expression)
    eyes = [(mean[a] + mean[b]) / 2 for a, b in face.EYE_CORNERS]
    opening = moved[:, face.UPPER_LIP, 1] - moved[:, face.LOWER_LIP, 1]
    return (opening / np.linalg.norm(eyes[0] - eyes[1])).astype(np.float32)


def both_ways(
    model: AudioToMotion, batch: Batch, noise: Array, prior_noise: Array, from_posterior: Array
) -> tuple[Array, Array]:
    """Expression [b, t, e] and the KL in nats per latent value; to be given as `method` to `model.apply` in training.

    noise, prior_noise [b, s, z]: draws of the posterior, and of the prior times its temperature. from_posterior [b]
    bool: whose latent an example is decoded from.
    """
    condition = model.encode_sound(batch["mel"], batch["pitch"], batch["blink"], batch["amplitude"], train=True)
    down = model.condition_down(condition)
    everywhere = jnp.ones((1, 1, 1))
    mean, log_scale = model.encoder(batch["expression"], down, everywhere)
    posterior = mean + noise * jnp.exp(log_scale)
    coded = model.flow(posterior, down, everywhere)
    kl = jnp.mean(-0.5 * noise**2 - log_scale + 0.5 * coded**2)
    prior = model.flow(prior_noise, down, everywhere, reverse=True)
    z = jnp.where(from_posterior[:, None, None], posterior, prior)
    return model.decoder(z, condition, everywhere), kl


def loss_terms(predicted: Array, truth: Array, weights: Array, gap: Array) -> dict[str, Array]:
    """Terms for expressions [b, t, e]: weighted units (L1 and squares), lips' gap, change from frame to frame.

    Lips that are to be pressed together count up to three times: such frames are few, and seen when they are missed.
    """
    error = predicted - truth
    pressed = jnp.clip(-(truth @ gap) / PRESSED_GAP, 0, 1)
    return {
        "units": jnp.mean((jnp.abs(error) + 4 * error**2) * weights),
        "gap": jnp.mean(jnp.abs(error @ gap) * (1 + 2 * pressed)),
        "velocity": jnp.mean(jnp.abs(jnp.diff(error, axis=1)) * weights),
    }


def make(config: ConfigDict) -> Stage:
    """The stage from its config (`configs/audio2motion.py`)."""
    from data_pipelines import speech_crops

    model = AudioToMotion(**config.model.to_dict())
    head = face.load_face_model()
    weights, gap = jnp.asarray(unit_weights(head.expression_names)), jnp.asarray(gap_direction(head))
    factors: Mapping[str, float] = config.loss.to_dict()
    frames, size = config.data.crop, config.batch_size
    decoded_from_posterior = np.arange(size) < round(config.posterior * size)

    def init_variables(rng: Array) -> Any:
        sound = jnp.zeros((1, 2 * frames, config.data.bands)), jnp.zeros((1, 2 * frames))
        return model.init(rng, *sound, method="everything")

    optimizer = make_optimizer(config, jax.eval_shape(init_variables, jax.random.key(0))["params"])

    def init(rng: Array) -> TrainState:
        return create(init_variables(rng), optimizer)

    def step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, dict[str, Array]]:
        a, b, c = jax.random.split(rng, 3)
        shape = (size, frames // model.stride, model.latent)
        noise, temperature = jax.random.normal(a, shape), jax.random.uniform(b, (size, 1, 1))
        prior_noise = temperature * jax.random.normal(c, shape)
        kl_factor = factors["kl"] * jnp.minimum(state.step / config.kl_steps, 1.0)

        def loss(params: Any) -> tuple[Array, Any]:
            (predicted, kl), model_state = model.apply(
                {"params": params, **state.model_state}, batch, noise, prior_noise, jnp.asarray(decoded_from_posterior),
                method=both_ways, mutable=list(state.model_state),
            )  # fmt: skip
            terms = loss_terms(predicted, batch["expression"], weights, gap)
            total = sum((factors[k] * v for k, v in terms.items()), kl_factor * kl)
            seen, meant = ((y @ gap)[~decoded_from_posterior].ravel() for y in (predicted, batch["expression"]))
            correlation = jnp.corrcoef(seen, meant)[0, 1]
            return total, (model_state, {**terms, "kl": kl, "prior_gap_correlation": correlation})

        (total, (model_state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        state = apply_gradients(state, grads, {**state.model_state, **model_state}, optimizer, config.average_decay)
        return state, {"loss": total, **metrics}

    def evaluate(state: TrainState, batch: Batch) -> dict[str, Array]:
        """The terms of what the sound alone gives, at temperature 0: as in use."""
        sound = (batch[k] for k in ("mel", "pitch", "blink", "amplitude"))
        heard: Any = model.apply(state.variables(averaged=True), *sound)
        terms = loss_terms(heard, batch["expression"], weights, gap)
        total = sum((factors[k] * v for k, v in terms.items()), jnp.zeros(()))
        return {"loss": total, **terms}

    def stream(first: int, held_out: bool) -> Iterator[Batch]:
        names = list(head.expression_names)
        return speech_crops.batches(
            config.data.path, size, frames, config.seed, first, names, sharding.process(), held_out
        )  # fmt: skip

    def batches(first: int) -> Iterator[Batch]:
        if config.held_out_batches:
            next(stream(0, held_out=True))  # now, not at the first evaluation, an empty half is told
        return stream(first, held_out=False)

    def held_out() -> Iterator[Batch]:
        return islice(stream(0, held_out=True), config.held_out_batches)

    return Stage(init, step, batches, evaluate=evaluate, held_out=held_out if config.held_out_batches else None)
