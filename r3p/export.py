"""`python -m r3p.export --workdir DIR --out FILE`: the averaged weights of a portrait run as one small file."""

import argparse
import json
import platform
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.people_shards import PeopleShards
from r3p import weights
from r3p.avatar import WEIGHTS_KIND
from r3p.checkpoint import Checkpoints
from r3p.errors import InputError
from r3p.evaluate.portrait import held_out
from r3p.models.portrait import Portrait
from r3p.train import load_stage


def export_portrait(workdir: Path, out: Path, people: int) -> dict[str, object]:
    """Writes the newest checkpoint's averaged parameters (float16) with the model's fields and where they come from.

    `people`: so many held-out synthetic people are measured (`r3p.evaluate.portrait`). Returns the provenance.
    Raises InputError when `workdir` holds no run of the portrait stage.
    """
    try:
        config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    except FileNotFoundError:
        raise InputError(f"{workdir} holds no training run: give the --workdir of python -m r3p.train") from None
    if config.stage != "portrait":
        raise InputError(f"{workdir} holds a run of stage {config.stage!r}: expected portrait")
    # Lists came from tuples; the model's fields are given back as they were.
    fields = config.model.to_dict()
    stage = load_stage(config)
    checkpoints = Checkpoints(workdir / "checkpoints", every=1, keep=1_000_000)
    if checkpoints.latest() is None:
        raise InputError(f"{workdir} holds no checkpoint yet: train longer")
    like = jax.eval_shape(stage.init, jax.random.key(0, impl="rbg"))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
    state = checkpoints.restore(like)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    averaged = state.variables(averaged=True)
    model = Portrait(**fields)
    measured = held_out(model, averaged, size=config.data.size, pncc_size=config.data.pncc_size, count=people)
    provenance = {
        "commands": [
            f"python -m data_pipelines.people --out DIR --count {len(PeopleShards(config.data.folder))} --seed 1",
            "python -m r3p.train --config configs/portrait.py:small --set data.folder=DIR",
            "python -m r3p.export --workdir RUN --out FILE",
        ],
        "seed": int(config.seed),
        "steps": int(state.step),
        "batch_size": int(config.batch_size),
        "hardware": f"{jax.device_count()} {jax.devices()[0].platform} device, {platform.machine()}",
        "training_psnr_last_100_steps": round(
            float(np.mean([r["psnr"] for r in rows if r["step"] > state.step - 100])), 2
        ),
        "held_out_people": people,
        "held_out_psnr_db": measured,
        "data": "synthetic people of data_pipelines.people on a CC0 head; no photograph of anyone",
    }
    meta = {"kind": WEIGHTS_KIND, "fields": fields, "pncc_size": config.data.pncc_size, "provenance": provenance}
    weights.save(out, jax.tree.map(np.asarray, averaged), meta, dtype=np.float16)
    return provenance


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m r3p.export", description="Write a portrait run's averaged weights as one file."
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=64, help="held-out synthetic people to measure on")
    args = parser.parse_args()
    try:
        print(json.dumps(export_portrait(args.workdir, args.out, args.people), indent=1))
    except InputError as error:
        print(f"r3p export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
