"""Milliseconds of the portrait model's parts, forward and with gradients, on this machine.

python -m benchmarks.portrait                 the small default
python -m benchmarks.portrait adapter render  only these parts

Times are the least of several runs; compare them within one run, machines differ and are shared.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from configs.portrait import small_model
from r3p import camera
from r3p.avatar import build
from r3p.stages.portrait import init_variables

REPEATS = 5


def parts(model: Any, variables: Any, size: int, pncc_size: int) -> dict[str, tuple[Callable[..., Any], tuple]]:
    """Name -> (function of variables and inputs, inputs)."""
    key = jax.random.key(0)
    viewpoint = camera.from_pose(jnp.zeros((1, 3)), jnp.zeros((1, 3)))
    image = jax.random.normal(key, (1, model.source_size, model.source_size, 3))
    picture = jax.random.normal(key, (1, size, size, 3))
    pncc = jax.random.normal(key, (1, pncc_size, pncc_size, 9))
    segmap = jax.nn.one_hot(jax.random.randint(key, (1, size, size), 0, 6), 6)
    points = 0.3 * jax.random.normal(key, (1, 68, 3))
    planes = jax.jit(lambda v: model.apply(v, image, method="canonical"))(variables)
    head = jax.jit(lambda v: model.apply(v, planes, viewpoint, method="head"))(variables)
    cache = jax.jit(lambda v: model.apply(v, picture, picture, segmap, method="encode"))(variables)
    return {
        "image to plane": (lambda v, x: model.apply(v, x, method="canonical"), (image,)),
        "adapter": (lambda v, x: model.apply(v, x, method="motion"), (pncc,)),
        "render": (lambda v, x: model.apply(v, x, viewpoint, method="head"), (planes,)),
        "torso, background": (lambda v, x: model.apply(v, x, picture, segmap, method="encode"), (picture,)),
        "fusion": (lambda v, c, h: model.apply(v, c, h, points, points, method="frame").rgb, (cache, head)),
    }


def clock(function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and the least of the later ones."""

    def once() -> float:
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - started

    return once(), min(once() for _ in range(REPEATS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="parts to time")
    args = parser.parse_args()
    model = build(small_model())
    size, pncc_size = model.frame_size, 192
    variables = jax.jit(lambda rng: init_variables(model, size, pncc_size, rng))(jax.random.key(0, impl="rbg"))
    print(f"{'part':20} {'forward':>9} {'gradient':>9} {'compiling':>10}   on {jax.devices()[0].device_kind}")
    for name, (function, inputs) in parts(model, variables, size, pncc_size).items():
        if args.only and name not in args.only:
            continue

        def loss(params: Any, *inputs: Any, function: Any = function) -> Any:
            outputs = jax.tree.leaves(function({**variables, "params": params}, *inputs))
            return sum(jnp.sum(jnp.square(x)) for x in outputs if jnp.issubdtype(x.dtype, jnp.floating))

        gradient = jax.grad(loss, argnums=tuple(range(1 + len(inputs))))
        (first, forward), (second, both) = (
            clock(jax.jit(f), variables["params"], *inputs) for f in (loss, gradient)
        )  # fmt: skip
        print(f"{name:20} {1e3 * forward:6.0f} ms {1e3 * both:6.0f} ms {first + second:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
