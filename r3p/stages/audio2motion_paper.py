"""Audio-to-motion as in Real3D-Portrait, section 3.4: a pitch-aware VAE with a flow prior, decoded from its posterior.

Whole utterances, padded and masked: divergence from the prior with a weight that comes and goes, errors of expression
and of the mesh's landmarks, curvature over time, size of the coefficients, and the judgement of a frozen SyncNet.
(`r3p.stages.audio2motion` is what made the small default: other losses, decoded from the prior as well.)
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import losses, mesh_motion, schedules, sharding
from r3p.errors import InputError
from r3p.models.audio2motion import AudioToMotion
from r3p.models.syncnet import SyncNet, sync_loss
from r3p.stages import Batch, Stage, syncnet
from r3p.stages.parts import FROZEN
from r3p.state import TrainState, apply_gradients, create, make_adam

Array = jax.Array

JUDGE = "syncnet"  # its variables' name among what is never trained


def load_judge(path: str, weight: float, features: int) -> tuple[SyncNet, dict[str, Any]] | None:
    """The frozen SyncNet of a weight file, or None where its loss has no weight.

    Raises:
      InputError: no file although the loss has a weight, or one for other speech features.
    """
    if not weight:
        return None
    if not path:
        raise InputError(
            f"loss.sync is {weight} and syncnet names no file: train one with configs/syncnet.py, export it and give "
            "it with --set syncnet=FILE, or set loss.sync=0"
        )
    model, variables = syncnet.load(path)
    heard = variables["params"]["audio_encoder"]["block0"]["conv"]["kernel"].shape[1]
    if heard != features:
        raise InputError(
            f"the SyncNet in {path} hears {heard} features, data.features is {features}: train it on these"
        )
    return model, variables


def motion_terms(
    predicted: Array, batch: Batch, bases: mesh_motion.OffsetBases, *, zero_ends: bool = False
) -> tuple[dict[str, Array], Array]:
    """Losses of expressions [b, t, e] against the batch's, and the landmarks' offsets [b, t, 1404] they give.

    `zero_ends`: the original's curvature, see `r3p.losses.frame_laplacian`.
    """
    truth, mask = batch["expression"], batch["mask"]
    seen, meant = (mesh_motion.landmark_offsets(bases, batch["identity"], y) for y in (predicted, truth))
    return {
        "expression": losses.frame_mse(predicted, truth, mask),
        "landmarks": losses.landmark_mse(seen, meant, mask),
        "laplacian": losses.frame_laplacian(predicted, mask, zero_ends=zero_ends),
        "size": losses.frame_power(predicted, mask),
    }, seen


def sync_term(model: SyncNet, variables: Any, offsets: Array, batch: Batch) -> Array:
    """How little the judge believes that `offsets` [b, t, 1404] and the sound go together, over the batch's clips.

    The judge uses its running statistics: clips of one batch say nothing about each other, and it does not move.
    """
    start = batch["clip_start"]
    mouth = syncnet.cut(offsets, start, syncnet.CLIP)
    audio = syncnet.cut(batch["audio"], 2 * start, 2 * syncnet.CLIP)
    embeddings: Any = model.apply(jax.lax.stop_gradient(variables), audio, mouth)
    return sync_loss(embeddings.audio, embeddings.mouth, jnp.ones(mouth.shape[0])).mean()


def make(config: ConfigDict) -> Stage:
    """The stage from its config (`configs/audio2motion.py:full`)."""
    from data_pipelines import utterances

    model = AudioToMotion(**config.model.to_dict())
    bases = mesh_motion.offset_bases(syncnet.load_face(config.data.bfm))
    factors: Mapping[str, float] = config.loss.to_dict()
    data = config.data.to_dict()
    if any(bound % model.stride for bound in data["lengths"]):
        raise InputError(f"data.lengths are {data['lengths']}: expected multiples of {model.stride} frames")
    judge = load_judge(config.syncnet, factors["sync"], data["features"])

    def init_variables(rng: Array) -> Any:
        frames = 4 * model.stride
        sound = jnp.zeros((1, 2 * frames, data["features"])), jnp.zeros((1, 2 * frames))
        return model.init(rng, *sound, method="everything")

    def rate(step: Array) -> Array:
        return schedules.audio_to_motion_rate(
            step, rate=config.learning_rate, warmup=config.warmup_steps, decade=config.decade
        )

    optimizer = make_adam(config, rate)

    def init(rng: Array) -> TrainState:
        frozen = {} if judge is None else {JUDGE: judge[1]}
        variables = {**init_variables(rng), FROZEN: jax.tree.map(jnp.asarray, frozen)}
        return create(variables, optimizer, unaveraged=(FROZEN,))

    def terms(predicted: Array, batch: Batch, state: TrainState) -> dict[str, Array]:
        out, offsets = motion_terms(predicted, batch, bases, zero_ends=config.zero_ends)
        if judge is not None:
            out["sync"] = sync_term(judge[0], state.model_state[FROZEN][JUDGE], offsets, batch)
        return out

    def reconstruct(variables: Any, batch: Batch, noise: Array, *, train: bool) -> tuple[Any, Any]:
        return model.apply(
            variables, batch["expression"], batch["audio"], batch["pitch"], batch["blink"], batch["amplitude"],
            noise=noise, mask=batch["mask"], train=train, method="reconstruct",
            mutable=["batch_stats"] if train else [],
        )  # fmt: skip

    def weigh(values: Mapping[str, Array], kl: Array, kl_weight: Array | float) -> Array:
        return sum((factors[name] * value for name, value in values.items()), kl_weight * kl)

    def step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, dict[str, Array]]:
        del rng  # the batch brings its noise
        ramp = {k: config.kl[k] for k in ("top", "ramp", "hold")}
        kl_weight = schedules.cyclic_weight(state.step, **ramp)
        own = {k: v for k, v in state.model_state.items() if k != FROZEN}

        def loss(params: Any) -> tuple[Array, Any]:
            out, changed = reconstruct({"params": params, **own}, batch, batch["noise"], train=True)
            values = terms(out.expression, batch, state)
            return weigh(values, out.kl, kl_weight), (changed, {**values, "kl": out.kl, "kl_weight": kl_weight})

        (total, (changed, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        model_state = {**state.model_state, **changed}
        return apply_gradients(state, grads, model_state, optimizer, config.average_decay), {"loss": total, **metrics}

    def evaluate(state: TrainState, batch: Batch) -> dict[str, Array]:
        """The loss at the posterior's mean, and the same terms of what the sound alone gives (`prior_..`)."""
        variables = state.variables(averaged=True)
        out, _ = reconstruct(variables, batch, jnp.zeros_like(batch["noise"]), train=False)
        heard: Any = model.apply(
            variables, batch["audio"], batch["pitch"], batch["blink"], batch["amplitude"], mask=batch["mask"]
        )
        values = terms(out.expression, batch, state)
        # The KL of a mean without noise lacks its half nat a value; for comparing runs that is no matter.
        total = weigh(values, out.kl, config.kl["top"])
        alone = {f"prior_{k}": v for k, v in terms(heard, batch, state).items()}
        return {"loss": total, **values, "kl": out.kl, **alone}

    def stream(first: int, source: utterances.Utterances) -> Iterator[Batch]:
        draws = utterances.Draws(config.sync_clips, model.stride, model.latent)
        return utterances.batches(
            source, config.batch_size, data["lengths"], draws, config.seed, first, sharding.process()
        )

    def batches(first: int) -> Iterator[Batch]:
        if config.held_out_batches:
            utterances.Utterances(
                data["folder"], held_out=True
            )  # now, not at the first evaluation, an empty half is told
        return stream(first, utterances.Utterances(data["folder"]))

    def held_out() -> Iterator[Batch]:
        return islice(stream(0, utterances.Utterances(data["folder"], held_out=True)), config.held_out_batches)

    def example() -> Batch:
        longest = max(data["lengths"])
        item = utterances.like(longest, data["features"], len(bases.identity), len(bases.expression))
        draws = utterances.Draws(config.sync_clips, model.stride, model.latent)
        return utterances.padded(item, longest, draws, np.random.default_rng(0)) | {"example": np.int32(0)}

    apart = held_out if config.held_out_batches else None
    return Stage(init, step, batches, evaluate=evaluate, held_out=apart, example=example)
