"""What a training step carries, and how it is optimised: the only importer of optax."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from r3p.errors import InputError

Tree = Any


class TrainState(flax.struct.PyTreeNode):
    """`params` are trained, `model_state` holds running statistics and constants; `average` follows both.

    (Running statistics of small batches are too noisy to go with averaged parameters.)
    """

    step: jax.Array
    params: Tree
    model_state: Tree
    opt_state: Tree
    average: Tree

    def variables(self, averaged: bool = False) -> dict[str, Tree]:
        """What `module.apply` takes."""
        return dict(self.average) if averaged else {"params": self.params, **self.model_state}


def make_schedule(config: ConfigDict) -> optax.Schedule:
    """Linear warm-up over `warmup_steps`, then a cosine from `learning_rate` to `final_factor` of it at the end.

    The end is `schedule_steps`, or `steps` where that is 0. Raises InputError when the warm-up is as long as that.
    """
    steps = config.get("schedule_steps", 0) or config.steps
    if not 0 <= config.warmup_steps < steps:
        raise InputError(f"warmup_steps is {config.warmup_steps}: expected fewer than the schedule's {steps} steps")
    return optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, steps, config.learning_rate * config.final_factor
    )


def label_by_pattern(params: Tree, patterns: Sequence[tuple[str, str]], default: str) -> Tree:
    """Labels each parameter by the first regex that finds its path.

    Raises:
      InputError: for a pattern that finds no parameter, which is a typing error in a config.
    """
    found = {pattern: 0 for pattern, _ in patterns}

    def label(path: Any, _: Any) -> str:
        name = "/".join(str(getattr(p, "key", p)) for p in path)
        for pattern, value in patterns:
            if re.search(pattern, name):
                found[pattern] += 1
                return value
        return default

    labels = jax.tree_util.tree_map_with_path(label, params)
    unused = [pattern for pattern, count in found.items() if not count]
    if unused:
        raise InputError(f"the patterns {unused} match no parameter: mend them, names look like {_first_name(params)}")
    return labels


def _first_name(params: Tree) -> str:
    path, _ = jax.tree_util.tree_flatten_with_path(params)[0][0]
    return "/".join(str(getattr(p, "key", p)) for p in path)


def packing(
    params: Tree, groups: Sequence[tuple[str, str]], rest: str
) -> tuple[Callable[[Tree], dict[str, jax.Array]], Callable[[dict[str, jax.Array]], Tree]]:
    """Functions from parameters to one vector a group and back: an optimiser then compiles to a few operations.

    Differentiate with respect to the tree and pack its gradient; that of `unpack` would add a padded vector a leaf.

    Args:
      params: the tree, or its shapes.
      groups: (regex, name): a parameter belongs to the first whose regex finds its path.
      rest: name of the group of all others.
    """
    labels, leaves = jax.tree.leaves(label_by_pattern(params, groups, rest)), jax.tree.leaves(params)
    structure = jax.tree.structure(params)
    names = list(dict.fromkeys(labels))
    members = {name: [k for k, label in enumerate(labels) if label == name] for name in names}

    def pack(tree: Tree) -> dict[str, jax.Array]:
        parts = jax.tree.leaves(tree)
        return {name: jnp.concatenate([jnp.ravel(parts[k]) for k in members[name]]) for name in names}

    def unpack(vectors: dict[str, jax.Array]) -> Tree:
        out: list[Any] = [None] * len(leaves)
        for name in names:
            start = 0
            for k in members[name]:
                size, shape = leaves[k].size, leaves[k].shape
                out[k] = vectors[name][start : start + size].reshape(shape)
                start += size
        return jax.tree.unflatten(structure, out)

    return pack, unpack


def make_optimizer(config: ConfigDict, params: Tree) -> optax.GradientTransformation:
    """Adam with global-norm clipping; `config.learning_rate_factors` are (regex, factor), a factor of 0 freezes.

    What the regexes of `config.steady` name keeps its learning rate, whatever the schedule does. The clip norm covers
    what is trained only.
    """
    factors = [(pattern, float(factor)) for pattern, factor in config.get("learning_rate_factors", ())]
    steady = config.get("steady", ())
    groups = [(pattern, f"{factor} steady" if pattern in steady else str(factor)) for pattern, factor in factors]
    labels = label_by_pattern(params, groups, "1.0")
    schedule = make_schedule(config)

    def adam(group: str) -> optax.GradientTransformation:
        factor = float(group.split()[0])
        if factor == 0:
            return optax.set_to_zero()
        rate = factor * config.learning_rate if "steady" in group else lambda step: factor * schedule(step)
        return optax.adam(rate, b1=config.beta1, b2=config.beta2)

    transforms = {group: adam(group) for group in {"1.0", *(group for _, group in groups)}}
    frozen = jax.tree.map(lambda group: float(group.split()[0]) == 0, labels)
    return optax.chain(
        optax.masked(optax.set_to_zero(), frozen),
        optax.clip_by_global_norm(config.clip_norm),
        optax.multi_transform(transforms, labels),
    )


def create(
    variables: dict[str, Tree], optimizer: optax.GradientTransformation, *, unaveraged: Sequence[str] = ()
) -> TrainState:
    """A state at step 0 from `module.init`'s variables.

    The average leaves out the parts of the parameters and the collections that `unaveraged` names.
    """
    model_state = dict(variables)
    params = model_state.pop("params")
    kept = {k: v for k, v in model_state.items() if k not in unaveraged}
    averaged = {"params": {k: v for k, v in params.items() if k not in unaveraged}, **kept}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        average=jax.tree.map(jnp.copy, averaged),
    )


def apply_gradients(
    state: TrainState, grads: Tree, model_state: Tree, optimizer: optax.GradientTransformation, average_decay: float
) -> TrainState:
    """One optimiser step; the average follows what it holds.

    It forgets fast at first: its decay is min(decay, (1 + n) / (10 + n)).
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(average_decay, (1.0 + state.step) / (10.0 + state.step))
    now = {"params": {k: params[k] for k in state.average["params"]}}
    now |= {k: model_state[k] for k in state.average if k != "params"}
    average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.average, now)
    return state.replace(
        step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state, average=average
    )


def compute_dtype(config: ConfigDict) -> Any:
    """What a stage gives its models as their field `dtype`: they compute in it; parameters and optimiser stay float32.

    Raises:
      InputError: for a `config.dtype` other than float32 and bfloat16.
    """
    kinds, name = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}, config.get("dtype", "float32")
    if name not in kinds:
        raise InputError(f"dtype is {name!r}: choose float32 or bfloat16")
    return kinds[name]


def _keep_products(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated")


REMAT: dict[str, Callable[..., Any]] = {
    "none": lambda loss: loss,
    # Norms, activations and copies are cheap to do again, and most of what a network keeps for its backward pass.
    "products": lambda loss: jax.checkpoint(loss, policy=_keep_products),
}


def gradients(
    loss: Callable[[Tree, Tree, jax.Array], tuple[jax.Array, Tree]],
    params: Tree,
    batch: Tree,
    rng: jax.Array,
    *,
    accumulate: int = 1,
    remat: str = "none",
) -> tuple[tuple[jax.Array, Tree], Tree]:
    """`jax.value_and_grad(loss, has_aux=True)`, a part of the batch after the other.

    Args:
      loss: `(params, batch, rng) -> (total, aux)`, means over the examples that it is given; aux holds metrics and new
        running statistics. It draws at random for as many examples as the batch that it is given has.
      accumulate: parts. Part k holds the rows k, k + parts, ... so that no row has to move to another device.
      remat: what the backward pass computes again: `none`, or all but matrix `products` and convolutions.

    Returns:
      Means over the parts; of integers among aux, the last part's.
    """
    if remat not in REMAT:
        raise InputError(f"remat is {remat!r}: choose {' or '.join(REMAT)}")
    grad = jax.value_and_grad(REMAT[remat](loss), has_aux=True)
    if accumulate == 1:
        return grad(params, batch, rng)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 1, 0)

    def add(total: jax.Array, new: jax.Array) -> jax.Array:
        return total + new if jnp.issubdtype(total.dtype, jnp.floating) else new

    def body(total: Tree, part: tuple[Tree, jax.Array]) -> tuple[Tree, None]:
        return jax.tree.map(add, total, grad(params, part[0], jax.random.fold_in(rng, part[1]))), None

    parts = jax.tree.map(split, batch)
    shapes = jax.eval_shape(grad, params, jax.tree.map(lambda x: x[0], parts), rng)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(body, zeros, (parts, jnp.arange(accumulate)))
    return jax.tree.map(lambda x: x / accumulate if jnp.issubdtype(x.dtype, jnp.floating) else x, total)


def make_adam(config: ConfigDict, rate: optax.Schedule) -> optax.GradientTransformation:
    """Adam at one rate for all parameters, `rate` of the step, with global-norm clipping (`config.clip_norm`)."""
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(rate, b1=config.beta1, b2=config.beta2))


# ------------------------------------------------------------------------------------------------ groups
# Stages whose parts begin, slow down and stop at steps of their own, and play against a discriminator.
Rates = Callable[[jax.Array], dict[str, jax.Array]]


def grouped_adam(
    params: Tree,
    groups: Sequence[tuple[str, str]],
    rates: Rates,
    *,
    betas: dict[str, tuple[float, float]],
    clip_norm: float,
    apart: Sequence[str] = (),
    frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Adam with a learning rate for each group of parameters at each step.

    A group whose rate is 0 rests: neither its parameters nor its moments move, so that its first step is as long as
    that of any other. What rests does not count in the norm that is clipped.

    Args:
      params: the tree, or its shapes.
      groups: (regex, name): a parameter belongs to the first whose regex finds its path; to none = never trained, and
        no moments are kept for it.
      rates: step -> {name: rate}.
      betas: of the groups by name, "" for those not named.
      clip_norm: largest norm of the gradients that are stepped along together.
      apart: groups whose norm is clipped on their own (a discriminator's).
      frozen: regexes of parameters that are never trained, whatever group they would belong to.

    Raises:
      InputError: for a regex that finds nothing.
    """
    resting = label_by_pattern(params, [(pattern, "frozen") for pattern in frozen], "")
    labels = jax.tree.map(lambda rest, label: rest or label, resting, label_by_pattern(params, groups, "frozen"))
    names = [n for n in dict.fromkeys(jax.tree.leaves(labels)) if n != "frozen"]
    adams = {
        name: optax.masked(
            optax.scale_by_adam(*betas.get(name, betas.get("", (0.9, 0.999)))),
            jax.tree.map(lambda label, name=name: label == name, labels),
        )
        for name in names
    }

    def init(params: Tree) -> Tree:
        return {"count": jnp.zeros((), jnp.int32), "groups": {name: adams[name].init(params) for name in names}}

    def scales(grads: Tree, rate: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """What each group's gradient is multiplied with for its norm to be clipped."""
        squares = {name: jnp.zeros(()) for name in names}
        for label, grad in zip(jax.tree.leaves(labels), jax.tree.leaves(grads), strict=True):
            if label in squares:
                squares[label] += jnp.where(rate[label] > 0, jnp.sum(jnp.square(grad.astype(jnp.float32))), 0.0)
        together = sum((v for name, v in squares.items() if name not in apart), jnp.zeros(()))
        out = {}
        for name in names:
            norm = jnp.sqrt(squares[name] if name in apart else together)
            out[name] = jnp.where(norm > clip_norm, clip_norm / jnp.maximum(norm, 1e-12), 1.0)
        return out

    def update(grads: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        rate = rates(state["count"])
        scale = scales(grads, rate)
        updates, states = grads, {}
        for name in names:
            active, before = rate[name] > 0, state["groups"][name]
            clipped = jax.tree.map(lambda g, label: g * scale.get(label, 1.0), grads, labels)
            stepped, after = adams[name].update(clipped, before, params)
            states[name] = jax.tree.map(lambda a, b, active=active: jnp.where(active, a, b), after, before)
            updates = jax.tree.map(
                lambda u, s, label, name=name: jnp.where(active, -rate[name] * s, 0.0) if label == name else u,  # noqa: B023
                updates, stepped, labels,
            )  # fmt: skip
        updates = jax.tree.map(lambda u, label: jnp.zeros_like(u) if label == "frozen" else u, updates, labels)
        return updates, {"count": state["count"] + 1, "groups": states}

    return optax.GradientTransformation(init, update)
