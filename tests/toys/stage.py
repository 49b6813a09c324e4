"""A small network with batch statistics, noise and dropout, on examples that are functions of their number."""

import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r3p import sharding
from r3p.stages import Batch, Stage
from r3p.state import TrainState, apply_gradients, compute_dtype, create, gradients, make_optimizer

EXAMPLES = 96


class Net(nn.Module):
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(self.width, (3, 3), dtype=self.dtype, name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, dtype=self.dtype, name="norm")(x))
        x = nn.Dropout(0.1, deterministic=not train)(x).mean((1, 2))
        return nn.Dense(4, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def example(number: int) -> dict[str, np.ndarray]:
    image = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    truth = np.array([image[..., c].mean() for c in range(3)] + [image.std()], np.float32) / 255
    return {"image": image, "truth": truth, "example": np.array(number, np.int32)}


def make(config: ConfigDict) -> Stage:
    model = Net(config.width, compute_dtype(config))

    def init_variables(rng: jax.Array) -> Any:
        return model.init(rng, jnp.zeros((1, 8, 8, 3)), train=False)

    optimizer = make_optimizer(config, jax.eval_shape(init_variables, jax.random.key(0))["params"])

    def init(rng: jax.Array) -> TrainState:
        return create(init_variables(rng), optimizer)

    def predict(variables: Any, batch: Batch, rng: jax.Array | None) -> Any:
        image = batch["image"].astype(jnp.float32) / 127.5 - 1
        if rng is None:
            return model.apply(variables, image, train=False)
        image += config.noise * jax.random.normal(rng, image.shape)
        rngs = {"dropout": jax.random.fold_in(rng, 1)}
        return model.apply(variables, image, train=True, rngs=rngs, mutable=["batch_stats"])

    def step(state: TrainState, batch: Batch, rng: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        def loss(params: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Any]:
            out, model_state = predict({"params": params, **state.model_state}, batch, rng)
            error = jnp.mean((out - batch["truth"]) ** 2)
            # The square root's derivative at zero is infinite, its value is not.
            bad = state.step == config.bad_gradient
            trap = jnp.where(bad, jnp.sqrt(jnp.where(bad, 0 * params["head"]["bias"].sum(), 1.0)), 0.0)
            return error + trap, (model_state, {"error": error})

        (total, (model_state, values)), grads = gradients(
            loss, state.params, batch, rng, accumulate=config.accumulate, remat=config.remat
        )
        state = apply_gradients(state, grads, model_state, optimizer, config.average_decay)
        return state, {"loss": total, **values}

    def batches(first: int) -> Any:
        index, count = sharding.process()
        local, step = config.batch_size // count, first
        while True:
            time.sleep(config.pause)
            start = step * config.batch_size + index * local
            rows = []
            for place in range(start, start + local):
                epoch, at = divmod(place, EXAMPLES)
                rows.append(example(int(np.random.default_rng((config.seed, epoch)).permutation(EXAMPLES)[at])))
            batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
            if config.record:  # which examples this process reads
                with open(f"{config.record}_{index}_of_{count}", "a") as file:
                    file.write(f"{step} {' '.join(map(str, batch['example']))}\n")
            if step == config.bad_step and config.bad_process in (-1, index):
                batch["truth"][0, 0] = np.nan
            yield batch
            step += 1

    def held_out() -> Any:
        index, count = sharding.process()
        local = config.batch_size // count
        rows = [example(1000 + k) for k in range(index * local, (index + 1) * local)]
        yield {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def evaluate(state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        out = predict(state.variables(averaged=True), batch, None)
        return {"error": jnp.mean((out - batch["truth"]) ** 2)}

    def preview(state: TrainState, batch: Batch) -> dict[str, np.ndarray]:
        shade = np.asarray(jax.jit(lambda s, b: predict(s.variables(), b, None))(state, batch))
        return {"image": batch["image"][0], "shade": np.full((8, 8, 3), np.clip(shade[0, 0] * 255, 0, 255), np.uint8)}

    return Stage(init, step, batches, preview, evaluate, held_out, accumulates=True, half=True)
