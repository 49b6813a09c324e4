"""Seconds of the full-size networks and of whole 512x512 frames on this machine, with the work they hold.

python -m benchmarks.frame                                     float32 and bfloat16, every row
python -m benchmarks.frame --only 'frame' --runs 7 --json F    rows whose name matches, written to a file as well

A frame is what a talking video costs per image: what depends on the portrait alone was computed before it (`planes
cached`), but for the first one. Weights are drawn, since time does not depend on them. Medians of warm runs; machines
differ and are shared, so compare what ran in one sitting, and the least and the processor time when it was busy.

GFLOP counts convolutions and matrix products as they run here (a multiply-add is two), GB what they read and write.
"""

import argparse
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r3p import camera, memory
from r3p.models.audio2motion import AudioToMotion
from r3p.models.portrait import Portrait

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SIZE, RAYS, SAMPLES = 512, 128**2, 48


class Row(NamedTuple):
    """A jitted function, its arguments, and the type it computes in."""

    name: str
    dtype: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Timing(NamedTuple):
    """Seconds: of the first call (compiling), the median, the least, and the least of the processor's."""

    first: float
    median: float
    best: float
    processor: float


# ------------------------------------------------------------------------------------------------ work
def work(jaxpr: Any, platform: str) -> tuple[float, float]:
    """FLOP and bytes of the convolutions and matrix products of a jaxpr, loops counted as often as they run."""
    flop = moved = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        times = eqn.params["length"] if name == "scan" else 1
        inner = [body for value in eqn.params.values() for body in _jaxprs(value)]
        if platforms := eqn.params.get("branches_platforms"):  # of `lax.platform_dependent`; None is the default
            inner = [inner[next(i for i, names in enumerate(platforms) if names is None or platform in names)]]
        if name in ("conv_general_dilated", "dot_general"):
            shapes = [v.aval for v in (*eqn.invars, *eqn.outvars)]
            moved += sum(s.size * s.dtype.itemsize for s in shapes)
            flop += 2 * shapes[-1].size * _depth(eqn, shapes)
        for body in inner:
            f, m = work(body, platform)
            flop, moved = flop + times * f, moved + times * m
    return flop, moved


def _jaxprs(value: Any) -> Iterator[Any]:
    for item in value if isinstance(value, list | tuple) else [value]:
        if hasattr(item, "eqns"):
            yield item
        elif hasattr(item, "jaxpr"):
            yield item.jaxpr


def _depth(eqn: Any, shapes: list[Any]) -> float:
    """Products that are summed for one value of the result."""
    if eqn.primitive.name == "dot_general":
        contracted = eqn.params["dimension_numbers"][0][0]
        return float(np.prod([shapes[0].shape[i] for i in contracted]))
    kernel = shapes[1].shape
    return float(np.prod(kernel)) / kernel[eqn.params["dimension_numbers"].rhs_spec[0]]


# ------------------------------------------------------------------------------------------------ rows
def drawn(shapes: Any) -> Any:
    """Variables of these shapes that keep the scale of what passes through them."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, spec: Any) -> Any:
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.ones(spec.shape)
        value = rng.standard_normal(spec.shape, np.float32)
        return jnp.asarray(value * (np.prod(spec.shape[:-1]) ** -0.5 if "kernel" in name else 0.1), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def inputs() -> dict[str, Any]:
    """One of everything that a portrait and a frame are made from."""
    rng = np.random.default_rng(1)

    def image(channels: int) -> Any:
        return jnp.asarray(rng.uniform(-1, 1, (1, SIZE, SIZE, channels)), jnp.float32)

    points = jnp.asarray(rng.uniform(-0.8, 0.8, (1, 68, 3)), jnp.float32)
    classes = jnp.asarray(rng.integers(0, 6, (1, SIZE, SIZE)))
    return {
        "image": image(3),
        "pncc": image(9),
        "camera": jnp.asarray(camera.from_pose(np.array([[0.05, 0.1, 0.0]]), np.zeros((1, 3))), jnp.float32),
        "torso": (image(3), image(3), jax.nn.one_hot(classes, 6)),
        "points": (points, points + 0.05),
        "rays": {
            "jitter": jnp.asarray(rng.uniform(0, 1, (1, RAYS, SAMPLES)), jnp.float32),
            "u": jnp.asarray(rng.uniform(0, 1, (1, RAYS, SAMPLES)), jnp.float32),
        },
    }


def portrait_rows(dtype: str) -> Iterator[Row]:
    """The networks of the portrait model, and its frames. Generated one by one, since each holds its results."""
    x = inputs()
    model = Portrait(dtype=DTYPES[dtype])
    everything = (x["image"], x["pncc"], x["camera"], *x["torso"], *x["points"])
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), *everything))
    head_model = Portrait(torso=False, dtype=DTYPES[dtype])
    shapes = jax.eval_shape(
        lambda *a: head_model.init(*a, method="animate"), jax.random.key(0), x["image"], x["pncc"], x["camera"]
    )
    head_variables = {**variables, "params": {**variables["params"], "superres": drawn(shapes)["params"]["superres"]}}

    def method(name: str, which: Portrait = model) -> Callable[..., Any]:
        return jax.jit(lambda v, *a: which.apply(v, *a, method=name))

    def render(m: Portrait, canonical: Any, pncc: Any) -> Any:
        return m.head(m.fuse(canonical, m.motion(pncc)), x["camera"], **x["rays"])

    def torso_frame(v: Any, canonical: Any, cache: Any, pncc: Any) -> Any:
        return model.apply(v, method=lambda m: m.frame(cache, render(m, canonical, pncc), *x["points"]).rgb)

    def head_frame(v: Any, canonical: Any, pncc: Any) -> Any:
        return head_model.apply(v, method=lambda m: m.enlarge(render(m, canonical, pncc)))

    def first_frame(v: Any, image: Any, torso: Any, pncc: Any) -> Any:
        def run(m: Portrait) -> Any:
            return m.frame(m.encode(*torso), render(m, m.canonical(image), pncc), *x["points"]).rgb

        return model.apply(v, method=run)

    def torso_decode(v: Any, cache: Any, rgb: Any, weight: Any) -> Any:
        def run(m: Portrait) -> Any:
            return m.superres.torso.decode(cache.torso, *x["points"], rgb, weight)

        return model.apply(v, method=run)

    planes = 0.3 * jax.random.normal(jax.random.key(1), (1, 3, SIZE // 2, SIZE // 2, 32))
    half = 0.5 * jax.random.normal(jax.random.key(2), (1, SIZE // 2, SIZE // 2, 3))
    opaque = jnp.ones_like(half[..., :1])
    yield Row("image to plane", dtype, method("canonical"), (variables, x["image"]))
    yield Row("motion adapter", dtype, method("motion"), (variables, x["pncc"]))
    rays = jax.jit(lambda v, p: model.apply(v, p, x["camera"], **x["rays"], method="head"))
    yield Row("renderer", dtype, rays, (variables, planes))
    head = rays(variables, planes)
    yield Row("head super-resolution", dtype, method("enlarge", head_model), (head_variables, head))
    yield Row("torso and background, once", dtype, method("encode"), (variables, *x["torso"]))
    cache = method("encode")(variables, *x["torso"])
    yield Row("torso, of it", dtype, jax.jit(torso_decode), (variables, cache, half, opaque))
    frame = jax.jit(lambda v, c, h: model.apply(v, c, h, *x["points"], method="frame").rgb)
    yield Row("torso super-resolution", dtype, frame, (variables, cache, head))
    yield Row("head frame", dtype, jax.jit(head_frame), (head_variables, planes, x["pncc"]))
    yield Row("torso frame", dtype, jax.jit(torso_frame), (variables, planes, cache, x["pncc"]))
    yield Row("first frame", dtype, jax.jit(first_frame), (variables, x["image"], x["torso"], x["pncc"]))


def speech_rows() -> Iterator[Row]:
    """Five seconds of HuBERT features and pitch to expression; this network is float32."""
    model = AudioToMotion()
    rng = np.random.default_rng(2)
    audio = jnp.asarray(rng.standard_normal((1, 256, 1024)), jnp.float32)
    f0 = jnp.asarray(rng.uniform(80, 300, (1, 256)), jnp.float32)
    noise = jnp.asarray(0.2 * rng.standard_normal((1, 32, 16)), jnp.float32)
    shapes = jax.eval_shape(lambda *a: model.init(*a, method="everything"), jax.random.key(0), audio, f0)
    function = jax.jit(lambda v, a, f, n: model.apply(v, a, f, noise=n))
    yield Row("audio2motion 5 s", "float32", function, (drawn(shapes), audio, f0, noise))


# ------------------------------------------------------------------------------------------------ clock
def clock(row: Row, runs: int) -> Timing:
    """Times one call that compiles and `runs` more."""
    walls, processors = [], []
    for _ in range(runs + 1):
        wall, processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(row.function(*row.arguments))
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return Timing(walls[0], statistics.median(walls[1:]), min(walls[1:]), min(processors[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose name matches")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of a row, after one that compiles")
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    args = parser.parse_args()
    memory.keep_freed()
    device = jax.devices()[0]
    print(f"{device.device_kind}, {device.platform}, {os.cpu_count()} processors, jax {jax.__version__}")
    print(f"{'row':28} {'dtype':9} {'median s':>9} {'least':>8} {'cpu s':>8} {'GFLOP':>8} {'GB':>7} {'first':>8} load")
    done: list[dict[str, Any]] = []
    for rows in (*(portrait_rows(dtype) for dtype in args.dtypes), speech_rows()):
        for row in rows:
            if not re.search(args.only, row.name):
                continue
            flop, moved = work(jax.make_jaxpr(row.function)(*row.arguments).jaxpr, device.platform)
            t = clock(row, args.runs)
            load = os.getloadavg()[0]
            print(
                f"{row.name:28} {row.dtype:9} {t.median:9.3f} {t.best:8.3f} {t.processor:8.3f} {flop / 1e9:8.1f} "
                f"{moved / 1e9:7.2f} {t.first:8.1f} {load:.1f}",
                flush=True,
            )
            done.append(
                {
                    "name": row.name, "dtype": row.dtype, "median_s": t.median, "best_s": t.best,
                    "processor_s": t.processor, "gflop": flop / 1e9, "gbyte": moved / 1e9, "runs": args.runs,
                    "load": load,
                }
            )  # fmt: skip
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"device": device.device_kind, "jax": jax.__version__, "rows": done}, file, indent=1)


if __name__ == "__main__":
    main()
