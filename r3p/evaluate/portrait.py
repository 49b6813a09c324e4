"""Measures a portrait model on synthetic people that it never saw.

python -m r3p.evaluate.portrait --weights r3p/assets/portrait.npz --count 64
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from data_pipelines.people import People
from r3p import losses
from r3p.errors import InputError
from r3p.models import layers
from r3p.models.portrait import Portrait
from r3p.stages import portrait as stage

SEED = 20_001  # of the held-out people; training uses small seeds


def held_out(
    model: Portrait, variables: Any, *, size: int, pncc_size: int, count: int, seed: int = SEED
) -> dict[str, float]:
    """Mean PSNR (dB) over `count` people, and that of the plain copy of the source in its place (`*_copy`).

    view: another camera, same expression, the head on black at the renderer's resolution: image-to-plane's and the
    renderer's work, with the motion diff-planes of an expression that stays (planes are never shown without any).
    frame: another camera and expression, the finished frame. frame_head: within the head's mask.
    """
    people = People(seed, size, pncc_size, per_person=1)
    raw = model.raw_resolution

    @jax.jit
    def turned(batch: Any) -> Any:
        return stage.forward(model, variables, batch, None, train=False)[0][0].rgb

    @jax.jit
    def moved(batch: Any) -> Any:
        return stage.forward(model, variables, batch, None, train=False)[0][1].rgb

    @jax.jit
    def compare(batch: Any, still: Any, image: Any, view: Any) -> dict[str, Any]:
        def shrink(x: Any) -> Any:
            return layers.resize(x, (raw, raw), antialias=True)

        def clipped(x: Any) -> Any:
            return jnp.clip(x, -1, 1)

        truth = shrink(stage.to_float(view["target_head"]))
        copy = stage.head_image(view["source"], view["source_segmap"], raw)
        source, target = stage.to_float(batch["source"]), stage.to_float(batch["target"])
        mask = batch["target_head_mask"][..., None].astype(jnp.float32) / 255

        def within(a: Any, b: Any) -> Any:
            error = (jnp.square((a - b) / 2) * mask).sum() / (3 * mask.sum() + 1e-6)
            return -10 * jnp.log10(jnp.maximum(error, 1e-10))

        return {
            "view": losses.psnr(clipped(still), truth),
            "view_copy": losses.psnr(copy, truth),
            "frame": losses.psnr(clipped(image), target),
            "frame_copy": losses.psnr(source, target),
            "frame_head": within(clipped(image), target),
            "frame_head_copy": within(source, target),
        }

    rows = []
    for k in tqdm(range(count), desc="held-out people", unit="person"):
        rng, again = np.random.default_rng([seed, k]), np.random.default_rng([seed, k, 1])
        person = people.person(rng)
        examples = people.example(rng, person), people.example(again, person, same_expression=True)
        batch, view = ({key: jnp.asarray(e[key][None]) for key in stage.KEYS} for e in examples)
        rows.append(compare(batch, turned(view), moved(batch), view))
    return {name: round(float(np.mean([r[name] for r in rows])), 2) for name in rows[0]}


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m r3p.evaluate.portrait", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="weight file; the embedded default when absent")
    parser.add_argument("--count", type=int, default=64, help="people")
    args = parser.parse_args(argv)
    try:
        from r3p.avatar import load_model

        model, variables, meta = load_model(args.weights)
    except InputError as error:
        print(f"r3p evaluate: {error}", file=sys.stderr)
        return 2
    side = model.frame_size
    figures = held_out(model, variables, size=side, pncc_size=meta["pncc_size"], count=args.count)
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
