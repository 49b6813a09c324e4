"""What the three stages of images have in common: parts of the train state, rays, the two-sided step, pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import state as states
from r3p.models import layers
from r3p.models.decoder import Head
from r3p.models.portrait import Portrait
from r3p.stages import pretrained
from r3p.stages.adversary import BETAS, NAME, Adversary
from r3p.stages.draws import Draws
from r3p.state import TrainState

Array = jax.Array
Tree = Any

# Collections beside the model's own: networks that are never trained, and weights of terms that tune themselves.
FROZEN, TUNED = "frozen", "tuned"
APART = (NAME, FROZEN, TUNED)  # what the average leaves out


def build(config: ConfigDict, *, torso: bool) -> Portrait:
    """The model of `config.model`."""
    fields = config.model.to_dict()
    dtype = jnp.dtype(fields.pop("dtype", "float32"))
    return Portrait(torso=torso, dtype=dtype, **pretrained.frozen_fields(fields))


def of_model(collections: Mapping[str, Tree]) -> dict[str, Tree]:
    """The model's own collections of a train state."""
    return {k: v for k, v in collections.items() if k not in (FROZEN, TUNED)}


def samples(model: Portrait, draws: Draws | None, name: str) -> dict[str, Any]:
    """`jitter` and `u` of `Portrait.head`, random for `draws`, none without."""
    if draws is None:
        return {"jitter": None, "u": None}
    rays = model.raw_resolution**2
    u = draws.uniform(f"fine {name}", (rays, model.fine)) if model.fine else None
    return {"jitter": draws.uniform(f"jitter {name}", (rays, model.coarse)), "u": u}


def dropout(rng: Array) -> dict[str, Array]:
    """Flax's `rngs` of a step: a generator that each device can run for its own rows alone.

    With `rbg` each device would draw the whole batch's masks: 4 MB an example in image-to-plane's pooling.
    """
    bits = jax.random.bits(jax.random.fold_in(rng, 1), (2,), jnp.uint32)
    return {"dropout": jax.random.wrap_key_data(bits, impl="threefry2x32")}


def shower(model: Portrait) -> Callable[..., tuple[Head, Array]]:
    """`(variables, planes, camera, draws, name)` -> the head and its enlarged image, neither clamped.

    `name` tells independent draws of the rays' samples apart; draws None = none.
    """

    @jax.jit  # so that a step which shows several things traces it once
    def show(variables: Tree, planes: Array, camera: Array, options: Mapping[str, Any]) -> tuple[Head, Array]:
        def run(model: Portrait) -> tuple[Head, Array]:
            head = model.head(planes, camera, **options)
            return head, model.enlarge(head)

        return cast(tuple[Head, Array], model.apply(variables, method=run))

    def draw(
        variables: Tree, planes: Array, camera: Array, draws: Draws | None, name: str
    ) -> tuple[Head, Array]:  # fmt: skip
        return show(variables, planes, camera, samples(model, draws, name))

    return draw


def every(step: Array, interval: int) -> Array:
    """Whether a lazy term is due."""
    return step % interval == 0


def lazily(due: Array, compute: Callable[[], Array], otherwise: Array | float = 0.0) -> Array:
    """A term that is only computed at the steps when it is due."""
    return jax.lax.cond(due, compute, lambda: jnp.asarray(otherwise, jnp.float32))


def sometimes(due: Array, compute: Callable[[], Tree], like: Tree) -> Tree:
    """`compute()` at the steps when it is due; zeros in the shapes of `like` at all others."""
    return jax.lax.cond(due, compute, lambda: jax.tree.map(jnp.zeros_like, like))


def renamed(values: Mapping[str, Array]) -> dict[str, Array]:
    """Terms of `mv` under the names of `ref`."""
    return {k.replace("mv_", "ref_", 1): v for k, v in values.items() if k.startswith("mv_")}


# ------------------------------------------------------------------------------------------------ state
def first_state(
    variables: Tree,
    optimizer: Any,
    adversary: Adversary | None,
    rng: Array,
    *,
    frozen: Tree,
    tuned: Tree | None = None,
    judge: Tree | None = None,
) -> TrainState:
    """A state at step 0: the model's variables, the discriminator's (fresh, or `judge`), and what is never trained."""
    variables = dict(variables)
    params = dict(variables.pop("params"))
    if adversary:
        fresh = adversary.init(rng)
        params[NAME] = fresh
        if judge is not None:
            params[NAME] = pretrained.graft({"params": fresh}, {"params": judge}, "the discriminator")[0]["params"]
    tree = {"params": params, **variables, FROZEN: frozen, TUNED: tuned or {}}
    return states.create(jax.tree.map(jnp.asarray, tree), optimizer, unaveraged=APART)


def optimizer(
    config: ConfigDict,
    params: Tree,
    groups: Sequence[tuple[str, str]],
    rates: states.Rates,
    adversary: Adversary | None,
) -> Any:
    """Adam of every group at its own rate, and the discriminator's.

    config: `pace` (so many steps of the schedule are one of ours), `rate_factors` by group, `beta1`, `beta2`,
    `clip_norm`; `frozen`, regexes of what is never trained.
    """
    factors = config.rate_factors.to_dict()

    def paced(step: Array) -> dict[str, Array]:
        now = step * config.pace
        out = {name: rate * factors.get(name, 1.0) for name, rate in rates(now).items()}
        if adversary:
            out[NAME] = adversary.rate(now, out[NAME])
        return out

    named = [*groups, *([(f"^{NAME}/", NAME)] if adversary else [])]
    betas = {"": (config.beta1, config.beta2), NAME: BETAS}
    return states.grouped_adam(
        params, named, paced, betas=betas, clip_norm=config.clip_norm, apart=(NAME,), frozen=config.frozen
    )


def gradients(params: Tree, parts: Mapping[str, Tree]) -> Tree:
    """Gradients of some parts in the structure of all parameters; zero elsewhere, where nothing is trained."""
    return {k: parts[k] if k in parts else jax.tree.map(jnp.zeros_like, v) for k, v in params.items()}


def tell_start(shapes: Tree, found: Tree | None, origin: str) -> None:
    """Says what a stage begins with, and what it has to learn from nothing."""
    if found is not None:
        _, fresh = pretrained.graft({"params": shapes}, found, origin)
        print(f"start: {origin}; fresh: {', '.join(fresh) or 'nothing'}", flush=True)


# ------------------------------------------------------------------------------------------------ pictures
def strip(*images: Array) -> np.ndarray:
    """Images [b, ., ., 3] in [-1, 1] side by side, one row an example -> uint8."""
    size = (images[0].shape[1], images[0].shape[2])
    row = jnp.concatenate([layers.resize(x, size) for x in images], axis=2)
    return np.asarray(jnp.clip(jnp.concatenate(list(row), axis=0) * 127.5 + 127.5, 0, 255)).astype(np.uint8)


def depth_picture(depth: Array) -> Array:
    """Depths [b, r, r, 1] -> grey [b, r, r, 3] in [-1, 1], near = light; each image over its own range."""
    low, high = depth.min((1, 2, 3), keepdims=True), depth.max((1, 2, 3), keepdims=True)
    grey = 1 - 2 * (depth - low) / jnp.maximum(high - low, 1e-6)
    return jnp.broadcast_to(grey, (*depth.shape[:3], 3))
