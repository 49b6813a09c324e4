"""Rehearses adaptation: portraits are learnt from image-to-plane's proposal, one after another, as a user's will be.

Each row of the batch holds one portrait for a while. Its canonical planes start as image-to-plane's proposal and are
then free; motion adapter, decoder and super-resolution keep what they learn from all rows and so become what portraits
share (first-order meta-learning: Reptile, Nichol et al. 2018, with the average of the weights as its slow ones).
Image-to-plane learns from the planes that its proposals became, and from rows that always show the proposal itself.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import adapt, lpips
from r3p.errors import InputError
from r3p.models import layers
from r3p.stages import Batch, Stage, portrait
from r3p.state import TrainState, apply_gradients, create, make_optimizer

Array = jax.Array
PLANES = "canonical"  # the free planes' place among the parameters


def _by_row(value: Array, planes: Array) -> Array:
    """[b] -> a shape that broadcasts over planes [b, ...]."""
    return value.reshape(-1, *(1,) * (planes.ndim - 1))


def _of_planes(tree: Any, change: Any) -> Any:
    """The tree with `change` applied to what belongs to the free planes: themselves or their moments."""

    def one(path: Any, x: Array) -> Array:
        return change(x) if any(getattr(p, "key", None) == PLANES for p in path) and x.ndim else x

    return jax.tree_util.tree_map_with_path(one, tree)


def make(config: ConfigDict) -> Stage:
    """The stage from its config (`configs/rehearsal.py`); it goes on from the weight file `config.start`, if any."""
    from data_pipelines import puppets
    from r3p.avatar import build, load_model

    model, start = build(config.model.to_dict()), None
    if config.start:
        model, start, _ = load_model(config.start)
    vgg = lpips.load()
    weights = config.loss.to_dict()
    distil, perceptual = weights.pop("distil"), weights.pop("lpips")
    ramp = config.perceptual_from, max(config.perceptual_full, config.perceptual_from + 1)
    side, train = config.data.size, config.batch_statistics
    if side != model.frame_size:
        wanted = model.frame_size
        raise InputError(
            f"data.size is {side}, but the model's frames have {wanted} pixels a side: set data.size={wanted}"
        )

    def propose(params: Any, rest: Any, batch: Batch) -> Any:
        image = portrait.head_image(batch["source"], batch["source_segmap"], model.source_size)
        variables = {"params": {"img2plane": params["img2plane"]}, **rest}
        return model.apply(variables, image, method="canonical", train=train, mutable=list(rest) if train else [])

    def init_variables(rng: Array) -> Any:
        tree = portrait.init_variables(model, config.data.size, config.data.pncc_size, rng) if start is None else start
        image = jax.ShapeDtypeStruct((config.batch_size, model.source_size, model.source_size, 3), jnp.float32)
        shape = jax.eval_shape(lambda v, x: model.apply(v, x, method="canonical"), tree, image).shape
        return {**tree, "params": {**tree["params"], PLANES: jnp.zeros(shape)}}

    optimizer = make_optimizer(config, jax.eval_shape(init_variables, jax.random.key(0))["params"])

    def init(rng: Array) -> TrainState:
        return create(jax.tree.map(jnp.asarray, init_variables(rng)), optimizer)

    def step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, dict[str, Array]]:
        place = _by_row(batch["place"], state.params[PLANES])
        # Coarse first: a perceptual term sees nothing in portraits that are not there yet.
        share = jnp.clip((state.step - ramp[0]) / (ramp[1] - ramp[0]), 0, 1)
        terms = {**weights, "lpips": perceptual * share}
        # A new portrait: its planes forget the one before.
        state = state.replace(opt_state=_of_planes(state.opt_state, lambda x: jnp.where(place == 0, 0, x)))

        def loss(params: Any) -> tuple[Array, Any]:
            proposal, rest = propose(params, state.model_state, batch)
            rest = {**state.model_state, **rest}
            planes = jnp.where(place == 0, proposal, params[PLANES])
            (head, frame), rest = adapt.show(model, {**params, PLANES: planes}, rest, batch, rng, train=train)
            total, metrics = portrait.frame_loss(
                head, frame, batch, terms, (vgg, jax.random.fold_in(rng, 1)), patch=config.perceptual_size
            )
            learnt = jax.lax.stop_gradient(planes)
            # The longer a portrait was learnt, the more its planes have to teach.
            away = (place * jnp.abs(proposal - learnt)).mean()
            return total + distil * away, ({**metrics, "distil": away}, learnt, rest)

        (total, (metrics, planes, rest)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        after = apply_gradients(state, grads, {**state.model_state, **rest}, optimizer, config.average_decay)
        # Within a portrait the planes' steps shrink as they do in an adaptation; the first leads from nowhere.
        stride = jnp.where(place == 0, 0, 0.05 + 0.95 * (0.5 + 0.5 * jnp.cos(jnp.pi * place)))
        moved = planes + stride * (after.params[PLANES] - state.params[PLANES])
        return after.replace(params={**after.params, PLANES: moved}), {"loss": total, **metrics}

    @jax.jit
    def predict(state: TrainState, batch: Batch) -> Any:
        (head, frame), _ = adapt.show(model, state.params, state.model_state, batch, None)
        return head.rgb, frame.rgb, frame.torso.rgb

    def preview(state: TrainState, batch: Batch) -> dict[str, np.ndarray]:
        shown = [layers.resize(x, (side, side)) for x in predict(state, batch)]
        row = jnp.concatenate([portrait.to_float(batch["source"]), portrait.to_float(batch["target"]), *shown], axis=2)
        row = jnp.concatenate(list(row), axis=0)
        return {"source_target_raw_image_torso": np.asarray(jnp.clip(row * 127.5 + 127.5, 0, 255)).astype(np.uint8)}

    def batches(first: int) -> Any:
        data = config.data
        source = puppets.Puppets(config.seed, side, data.pncc_size, data.spread)
        rows = puppets.Rows(source, config.batch_size, data.plain, data.people, data.length, first, portrait.KEYS)
        return puppets.batches(rows, data.workers)

    return Stage(init, step, batches, preview)


def variables(state: TrainState) -> dict[str, Any]:
    """Averaged variables of the model, as a weight file holds them."""
    average = dict(state.average)
    average["params"] = {k: v for k, v in average["params"].items() if k != PLANES}
    return average
