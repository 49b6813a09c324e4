"""SyncNet: sounds and mouths of one moment against those of two (Real3D-Portrait's judge of lip synchrony).

Every example is a window of an utterance, another person's window, and pairs of clips in them (`data_pipelines
.sync_pairs`): nothing of an example depends on the others, so that batches shard without any exchange but that of the
normalisation layers.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import face, mesh_motion, schedules, sharding, weights
from r3p.models import syncnet
from r3p.models.syncnet import SyncNet
from r3p.stages import Batch, Stage
from r3p.state import TrainState, apply_gradients, create, make_adam

Array = jax.Array

WEIGHTS_KIND = "syncnet"
CLIP = 5  # video frames; twice as many of the sound's


def load_face(bfm: str) -> face.FaceModel:
    """The face model that a data set's coefficients belong to: the built-in head, or the BFM in the folder `bfm`."""
    return face.from_bfm(Path(bfm).expanduser()) if bfm else face.load_face_model()


def cut(rows: Array, start: Array, length: int) -> Array:
    """Clips of `length` frames of sequences [b, t, c] from first frames [b, n] on: [b n, length, c]."""
    clips = jax.vmap(lambda row, first: row[first[:, None] + jnp.arange(length)])(rows, start)
    return clips.reshape(-1, length, rows.shape[-1])


def pairs(batch: Batch, bases: mesh_motion.OffsetBases) -> tuple[Array, Array, Array]:
    """Sound [n, 10, c], landmarks' offsets [n, 5, 1404] and labels [n] of a batch of `data_pipelines.sync_pairs`."""

    def choose(name: str, clips: Callable[[Array], Array]) -> Array:
        own, other = clips(batch[name]), clips(batch[f"other_{name}"])
        return jnp.where(batch["from_other"].reshape(-1, *(1,) * (own.ndim - 1)), other, own)

    n = batch["label"].shape[1]
    audio = cut(batch["audio"], 2 * batch["audio_start"], 2 * CLIP)
    expression = choose("expression", lambda x: cut(x, batch["mouth_start"], CLIP))
    identity = choose("identity", lambda x: jnp.repeat(x, n, axis=0))
    return audio, mesh_motion.landmark_offsets(bases, identity, expression), batch["label"].reshape(-1)


def measures(embeddings: syncnet.Embeddings, label: Array) -> tuple[Array, dict[str, Array]]:
    """The mean loss; with it the accuracy at a cosine of a half, and the mean cosine of either kind of pair."""
    cosine = syncnet.cosine(*embeddings)
    loss = syncnet.sync_loss(*embeddings, label).mean()
    together = label > 0.5
    return loss, {
        "loss": loss,
        "accuracy": jnp.mean((cosine > 0.5) == together),
        "cosine_positive": jnp.sum(cosine * label) / jnp.maximum(label.sum(), 1),
        "cosine_negative": jnp.sum(cosine * (1 - label)) / jnp.maximum((1 - label).sum(), 1),
    }


def load(path: str) -> tuple[SyncNet, dict[str, Any]]:
    """Network and variables of a weight file of `python -m r3p.export`. Raises InputError for another file."""
    trees, meta = weights.load(Path(path).expanduser(), WEIGHTS_KIND)
    return SyncNet(**meta["model"]), trees


def make(config: ConfigDict) -> Stage:
    """The stage from its config (`configs/syncnet.py`)."""
    from data_pipelines import sync_pairs
    from data_pipelines.utterances import Utterances, like

    model = SyncNet(**config.model.to_dict())
    bases = mesh_motion.offset_bases(load_face(config.data.bfm))
    data: Mapping[str, Any] = config.data.to_dict()

    def init_variables(rng: Array) -> Any:
        landmarks = bases.identity.shape[-1]
        return model.init(rng, jnp.zeros((1, 2 * CLIP, data["features"])), jnp.zeros((1, CLIP, landmarks)))

    def rate(step: Array) -> Array:
        return schedules.syncnet_rate(step, rate=config.learning_rate)

    optimizer = make_adam(config, rate)

    def init(rng: Array) -> TrainState:
        return create(init_variables(rng), optimizer)

    def step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, dict[str, Array]]:
        del rng  # the batch says all
        audio, mouth, label = pairs(batch, bases)

        def loss(params: Any) -> tuple[Array, Any]:
            embeddings, model_state = model.apply(
                {"params": params, **state.model_state}, audio, mouth, train=True, mutable=list(state.model_state)
            )
            total, metrics = measures(embeddings, label)
            return total, (model_state, metrics)

        (_, (model_state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        state = apply_gradients(state, grads, model_state, optimizer, config.average_decay)
        return state, metrics

    def evaluate(state: TrainState, batch: Batch) -> dict[str, Array]:
        audio, mouth, label = pairs(batch, bases)
        embeddings: Any = model.apply(state.variables(averaged=True), audio, mouth)
        return measures(embeddings, label)[1]

    def stream(first: int, utterances: Utterances) -> Iterator[Batch]:
        return sync_pairs.batches(
            utterances, config.batch_size, data["window"], data["pairs"], config.seed, first, sharding.process()
        )

    def batches(first: int) -> Iterator[Batch]:
        if config.held_out_batches:
            Utterances(data["folder"], held_out=True)  # now, not at the first evaluation, an empty half is told
        return stream(first, Utterances(data["folder"]))

    def held_out() -> Iterator[Batch]:
        return islice(stream(0, Utterances(data["folder"], held_out=True)), config.held_out_batches)

    def example() -> Batch:
        item = like(data["window"], data["features"], len(bases.identity), len(bases.expression))
        return sync_pairs.example(item, item, 0, data["window"], data["pairs"], np.random.default_rng(0))

    apart = held_out if config.held_out_batches else None
    return Stage(init, step, batches, evaluate=evaluate, held_out=apart, example=example)
