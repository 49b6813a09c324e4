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
from r3p.errors import InputError
from r3p.evaluate.pixels import PixelTotals
from r3p.models import layers
from r3p.models.portrait import Portrait
from r3p.stages import portrait as stage

SEED = 20_001  # of the held-out people; training uses small seeds


def held_out(
    model: Portrait, variables: Any, *, size: int, pncc_size: int, count: int, seed: int = SEED
) -> dict[str, float]:
    """Mean PSNR (`r3p eval`'s psnr_s, dB) over `count` people, and that of the copied source in its place (`*_copy`).

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
    def small(view: Any) -> Any:
        """The head on black that the view should show, and the copied source, at the renderer's resolution."""
        truth = layers.resize(stage.to_float(view["target_head"]), (raw, raw), antialias=True)
        return truth, stage.head_image(view["source"], view["source_segmap"], raw)

    totals = {k: PixelTotals() for k in ("view", "view_copy", "frame", "frame_copy", "frame_head", "frame_head_copy")}
    shares = []  # of the head's mask: black around it is equal in both pictures and would count as right
    for k in tqdm(range(count), desc="held-out people", unit="person"):
        rng, again = np.random.default_rng([seed, k]), np.random.default_rng([seed, k, 1])
        person = people.person(rng)
        examples = people.example(rng, person), people.example(again, person, same_expression=True)
        batch, view = ({key: jnp.asarray(e[key][None]) for key in stage.KEYS} for e in examples)
        (truth, copy), still, image = small(view), turned(view), moved(batch)
        totals["view"].add(_bytes(still), _bytes(truth))
        totals["view_copy"].add(_bytes(copy), _bytes(truth))
        mask = np.asarray(batch["target_head_mask"])[..., None] > 127
        shares.append(mask.mean())
        target = np.asarray(batch["target"])
        for name, shown in (("", _bytes(image)), ("_copy", np.asarray(batch["source"]))):
            totals[f"frame{name}"].add(shown, target)
            totals[f"frame_head{name}"].add(shown * mask, target * mask)
    found = {name: total.figures()["psnr_s"] for name, total in totals.items()}
    for name in ("frame_head", "frame_head_copy"):
        found[name] += float(10 * np.log10(np.array(shares)).mean())
    return {name: round(value, 2) for name, value in found.items()}


def _bytes(image: Any) -> np.ndarray:
    """[-1, 1] -> uint8, as a video has it."""
    return np.round(np.clip(np.asarray(image, np.float32), -1, 1) * 127.5 + 127.5).astype(np.uint8)


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
