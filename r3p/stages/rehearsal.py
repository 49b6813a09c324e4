"""Rehearses adaptation: one portrait after another is learnt from image-to-plane's proposal, as a user's will be.

The canonical planes start anew with each portrait; motion adapter, decoder and super-resolution keep what they learn
and so become what portraits share (first-order meta-learning: Reptile, Nichol et al. 2018, with the average of the
weights as its slow ones). Image-to-plane and running statistics stay.
"""

from typing import Any, cast

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
FROZEN = "image_to_plane"  # its parameters' place in the model state


def _collections(state: TrainState) -> dict[str, Any]:
    """Running statistics and constants."""
    return {k: v for k, v in state.model_state.items() if k != FROZEN}


def make(config: ConfigDict) -> Stage:
    """The stage from its config (`configs/rehearsal.py`); starts from the weight file `config.start`."""
    from data_pipelines import puppets
    from r3p.avatar import load_model

    model, start, _ = load_model(config.start)
    vgg = lpips.load()
    weights = config.loss.to_dict()
    side = config.data.size
    if side != 4 * model.superres_fields["raw_resolution"]:
        wanted = 4 * model.superres_fields["raw_resolution"]
        raise InputError(
            f"data.size is {side}, but the model's frames have {wanted} pixels a side: set data.size={wanted}"
        )

    def canonical(state: Any, batch: Batch) -> Array:
        image = portrait.head_image(batch["source"][:1], batch["source_segmap"][:1], model.source_size)
        variables = {"params": {"img2plane": state.model_state[FROZEN]}, **_collections(state)}
        return cast(Array, model.apply(variables, image, method="canonical"))

    def init_variables() -> Any:
        params = {k: start["params"][k] for k in adapt.PARTS}
        image = jax.ShapeDtypeStruct((1, model.source_size, model.source_size, 3), jnp.float32)
        shape = jax.eval_shape(lambda x: model.apply(start, x, method="canonical"), image).shape
        state = {k: v for k, v in start.items() if k != "params"}
        return {"params": params | {"canonical": jnp.zeros(shape)}, FROZEN: start["params"]["img2plane"], **state}

    optimizer = make_optimizer(config, jax.eval_shape(init_variables)["params"])

    def init(rng: Array) -> TrainState:
        del rng  # everything comes from the weight file
        return create(jax.tree.map(jnp.asarray, init_variables()), optimizer)

    def step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, dict[str, Array]]:
        place = batch["place"][0]
        fresh = place == 0
        planes = jax.lax.cond(fresh, lambda: canonical(state, batch), lambda: state.params["canonical"])

        def forget(path: Any, x: Array) -> Array:
            of_planes = any(getattr(p, "key", None) == "canonical" for p in path)
            return jnp.where(fresh, 0, x) if of_planes else x

        state = state.replace(
            params=state.params | {"canonical": planes},
            opt_state=jax.tree_util.tree_map_with_path(forget, state.opt_state),
        )
        fixed = _collections(state)

        def loss(params: Any) -> tuple[Array, dict[str, Array]]:
            head, frame = adapt.show(model, params, fixed, batch, rng)
            return portrait.frame_loss(head, frame, batch, weights, (vgg, jax.random.fold_in(rng, 1)))

        (total, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        after = apply_gradients(state, grads, state.model_state, optimizer, config.average_decay)
        # Within a portrait the planes' steps shrink as they do in an adaptation.
        share = 0.05 + 0.95 * (0.5 + 0.5 * jnp.cos(jnp.pi * place))
        moved = planes + share * (after.params["canonical"] - planes)
        return after.replace(params=after.params | {"canonical": moved}), {"loss": total, **metrics, "place": place}

    @jax.jit
    def predict(state: TrainState, batch: Batch) -> Any:
        fixed = _collections(state)
        head, frame = adapt.show(model, state.params, fixed, batch, None)
        return head.rgb, frame.rgb, frame.torso.rgb

    def preview(state: TrainState, batch: Batch) -> dict[str, np.ndarray]:
        shown = [layers.resize(x, (side, side)) for x in predict(state, batch)]
        row = jnp.concatenate([portrait.to_float(batch["source"]), portrait.to_float(batch["target"]), *shown], axis=2)
        row = jnp.concatenate(list(row), axis=0)
        return {"source_target_raw_image_torso": np.asarray(jnp.clip(row * 127.5 + 127.5, 0, 255)).astype(np.uint8)}

    def batches(first: int) -> Any:
        return puppets.batches(
            config.seed, side, config.data.pncc_size, config.data.length, config.batch_size, first, portrait.KEYS
        )

    return Stage(init, step, batches, preview)


def variables(state: TrainState) -> dict[str, Any]:
    """Averaged variables of the whole model, image-to-plane included, as a weight file holds them."""
    average = dict(state.average)
    params = {k: v for k, v in average.pop("params").items() if k != "canonical"}
    return {"params": params | {"img2plane": average.pop(FROZEN)}, **average}
