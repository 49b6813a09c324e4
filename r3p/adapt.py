"""Adapting the pre-trained model to one portrait: its photograph is the teacher (`r3p.puppet`), for a bounded time.

The canonical planes that image-to-plane proposes become free, and motion adapter, decoder and super-resolution learn
with them under the loss of pre-training. How the torso moves and running statistics stay.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.ahead import draw_ahead
from r3p import lpips
from r3p.models.decoder import Head
from r3p.models.portrait import Portrait
from r3p.models.superres import FusionOutput
from r3p.stages import portrait as stage
from r3p.state import apply_gradients, create, make_optimizer, packing

Array = jax.Array
Tree = Any

PARTS = ("adapter", "decoder", "superres")
LOSS = dict(raw=1.0, raw_mask=0.5, image=2.0, edges=1.0, torso=0.5, person=0.3, entropy=0.01, lpips=0.5)
# Groups of parameters, and their share of the learning rate; how torsos move is common to all people, and faces nearly.
GROUPS = (
    ("^canonical", "canonical"),
    ("^superres/torso/motion", "torso_motion"),
    ("^superres/torso", "torso"),
    (stage.UNIT_VARIANCE, "unit_variance"),
    ("^adapter", "adapter"),
)
RATES = {"canonical": 30.0, "torso_motion": 0.0, "torso": 4.0, "unit_variance": 6.0, "adapter": 0.3}


class Teacher(Protocol):
    """Whatever gives examples of one portrait; `source` is the part of them that never changes."""

    source: dict[str, np.ndarray]

    def example(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One example, see `r3p.stages.portrait.KEYS`."""


def settings(steps: int) -> ConfigDict:
    """Optimiser settings of an adaptation of so many steps."""
    return ConfigDict(
        dict(
            learning_rate=1e-3,
            warmup_steps=min(10, steps // 10),
            steps=steps,
            final_factor=0.05,
            beta1=0.9,
            beta2=0.98,
            clip_norm=1.0,
            learning_rate_factors=tuple((f"^{name}$", factor) for name, factor in RATES.items()),
        )
    )


def adapt(
    model: Portrait,
    variables: Mapping[str, Tree],
    teacher: Teacher,
    *,
    steps: int,
    seed: int = 0,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[dict[str, Tree], np.ndarray]:
    """Adapts to the teacher's portrait.

    Args:
      model: the model, with torso.
      variables: its pre-trained variables.
      teacher: gives examples with one and the same source.
      steps: examples shown, one a step; 0 gives what the pre-trained model makes of the photograph.
      seed: of the examples and the rays' jitter.
      progress: called after each step with its number (from 1) and its metrics.

    Returns:
      The variables without image-to-plane, and the canonical planes [1, 3, h, w, c].
    """
    photograph, classes = (jnp.asarray(teacher.source[k][None]) for k in ("source", "source_segmap"))
    image = stage.head_image(photograph, classes, model.source_size)
    canonical = jax.jit(lambda v, x: model.apply(v, x, method="canonical"))(variables, image)
    fixed = {name: {k: tree[k] for k in PARTS if k in tree} for name, tree in variables.items() if name != "params"}
    params = {"canonical": canonical, **{k: variables["params"][k] for k in PARTS}}
    if steps:
        config = settings(steps)
        pack, unpack = packing(params, GROUPS, "others")
        vectors = pack(params)
        optimizer = make_optimizer(config, vectors)

        @partial(jax.jit, donate_argnums=0)
        def step(state: Any, batch: Any, rng: Array, vgg: Any) -> tuple[Any, dict[str, Array]]:
            def loss(params: Tree) -> tuple[Array, dict[str, Array]]:
                (head, frame), _ = show(model, params, fixed, batch, rng)
                return stage.frame_loss(head, frame, batch, LOSS, (vgg, jax.random.fold_in(rng, 1)))

            (total, metrics), grads = jax.value_and_grad(loss, has_aux=True)(unpack(state.params))
            return apply_gradients(state, pack(grads), {}, optimizer, 0.95), {"loss": total, **metrics}

        state = create({"params": vectors}, optimizer)
        rng, vgg = jax.random.key(seed, impl="rbg"), lpips.load()

        def draw(index: int) -> dict[str, np.ndarray]:
            example = teacher.example(np.random.default_rng([seed, index]))
            return {k: example[k][None] for k in stage.KEYS}

        for k, batch in enumerate(draw_ahead(draw, range(steps))):
            state, metrics = step(state, batch, jax.random.fold_in(rng, k), vgg)
            if progress:
                progress(k + 1, {name: float(value) for name, value in metrics.items()})
        params = unpack(state.average["params"])
    params = dict(params)
    planes = np.asarray(params.pop("canonical"))
    return {"params": jax.tree.map(np.asarray, params), **jax.tree.map(np.asarray, fixed)}, planes


def show(
    model: Portrait, params: Tree, fixed: Tree, batch: Any, rng: Array | None, *, train: bool = False
) -> tuple[tuple[Head, FusionOutput], Tree]:
    """The targets of a batch, drawn from free canonical planes.

    params: `PARTS` and `canonical` [b, 3, h, w, c], or [1, ...] for one portrait in all rows; fixed: the other
    collections; rng: of the rays' jitter, or None; train: with the batch's statistics. Returns the head and the frame,
    and the collections that `train` changed.
    """
    jitter, u = (None, None) if rng is None else stage.jitter_and_u(model, len(batch["source"]), rng)
    variables = {"params": {k: params[k] for k in PARTS}, **fixed}

    def run(m: Portrait) -> Any:
        pncc = stage.pncc_stack(batch["pncc_canonical"], batch["pncc_source"], batch["pncc_target"])
        planes = m.fuse(params["canonical"], m.motion(pncc, train=train))
        head = m.head(planes, batch["target_camera"], jitter=jitter, u=u)
        cache = m.encode(
            stage.to_float(batch["torso"]),
            stage.to_float(batch["background"]),
            jax.nn.one_hot(batch["source_segmap"], 6, dtype=jnp.float32),
            train=train,
        )
        return head, m.frame(cache, head, batch["source_keypoints"], batch["target_keypoints"], train=train)

    rngs = {"dropout": jax.random.fold_in(rng, 2)} if train and rng is not None else None
    return cast(Any, model.apply(variables, method=run, mutable=list(fixed) if train else [], rngs=rngs))
