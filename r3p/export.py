"""`python -m r3p.export --workdir DIR --out FILE`: averaged weights of a run of any stage as one file."""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from r3p import speech_motion, weights
from r3p.avatar import WEIGHTS_KIND, load_model
from r3p.checkpoint import Checkpoints
from r3p.errors import InputError
from r3p.stages import rehearsal, syncnet
from r3p.state import TrainState
from r3p.train import load_stage

RECIPE = "launch/train_small.sh"
SMALL = ("portrait", "rehearsal")
# The paper's stages: what kind of weights each gives.
PAPERS = {
    "img2plane": "image-to-plane model", "motion2plane": WEIGHTS_KIND, "torso": WEIGHTS_KIND,
    "syncnet": syncnet.WEIGHTS_KIND, "audio2motion_paper": speech_motion.WEIGHTS_KIND,
}  # fmt: skip
SPEECH = ("syncnet", "audio2motion_paper")


def read_run(workdir: Path) -> tuple[ConfigDict, TrainState]:
    """Config and newest state of a run. Raises InputError when `workdir` holds none of these stages."""
    try:
        config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    except FileNotFoundError:
        raise InputError(f"{workdir} holds no training run: give the --workdir of python -m r3p.train") from None
    if config.stage not in (*SMALL, *PAPERS):
        raise InputError(
            f"{workdir} holds a run of stage {config.stage!r}: expected one of {', '.join(SMALL)}, {', '.join(PAPERS)}"
        )
    checkpoints = Checkpoints(workdir / "checkpoints", every=1, keep=1_000_000)
    try:
        if checkpoints.latest() is None:
            raise InputError(f"{workdir} holds no checkpoint yet: train longer")
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.eval_shape(load_stage(config).init, jax.random.key(0, impl="rbg"))
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
        return config, checkpoints.restore(like)
    finally:
        checkpoints.close()


def export_portrait(workdir: Path, out: Path, note: str = "", *, halfway: bool = False) -> dict[str, Any]:
    """Writes the newest checkpoint's averaged weights (float16) with the model's fields and where they come from.

    `note`: what the command alone does not tell. `halfway`: the mean of the run's weights and of those that it started
    from. `python -m r3p.evaluate.held_out --record` adds held-out figures. Returns the provenance. Raises InputError
    when `workdir` holds no such run.
    """
    config, state = read_run(workdir)
    variables, fields, earlier = state.variables(averaged=True), config.model.to_dict(), {}
    if config.stage in PAPERS:
        return _export_stage(config, state, workdir, out, note)
    if halfway and not config.get("start"):
        raise InputError(f"{workdir} started from nothing: leave --halfway out")
    if config.stage == "rehearsal":
        variables = rehearsal.variables(state)
        if config.start:
            _, before, meta = load_model(config.start)
            fields, earlier = meta["fields"], meta["provenance"]
            if halfway:
                variables = jax.tree.map(lambda a, b: (np.asarray(a, np.float32) + b) / 2, before, variables)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = [r["psnr"] for r in rows if "psnr" in r and r["step"] > int(state.step) - 400]
    provenance = {
        "command": f"{RECIPE} FOLDER",
        "stage": config.stage,
        "seed": int(config.seed),
        "steps": int(state.step),
        "batch_size": int(config.batch_size),
        "hardware": f"{jax.device_count()} {jax.devices()[0].device_kind} device, {platform.machine()}",
        "jax": jax.__version__,
        "training_psnr_last_400_steps": round(float(np.mean(last)), 2),
        "data": "synthetic people of data_pipelines.people on a CC0 head; no photograph of anyone",
        "after": earlier,
    }
    if halfway:
        provenance["halfway"] = "the mean of this run's weights and of those that it started from"
    if note:
        provenance["note"] = note
    meta = {"kind": WEIGHTS_KIND, "fields": fields, "pncc_size": config.data.pncc_size, "provenance": provenance}
    weights.save(out, jax.tree.map(np.asarray, variables), meta, dtype=np.float16)
    return provenance


def _export_stage(config: ConfigDict, state: TrainState, workdir: Path, out: Path, note: str) -> dict[str, Any]:
    """Of one of the paper's stages: as `r3p talk` and the stages that follow read it."""
    fields, data = config.model.to_dict(), config.data.to_dict()
    fields.pop("dtype", None)  # of training
    provenance = {
        "stage": config.stage,
        "seed": int(config.seed),
        "steps": int(state.step),
        "batch_size": int(config.batch_size),
        "hardware": f"{jax.device_count()} {jax.devices()[0].device_kind} device, {platform.machine()}",
        "jax": jax.__version__,
        "data": {k: data[k] for k in ("teacher", "source", "features") if k in data},
        "started": bool(config.get("start")),
        **({"note": note} if note else {}),
    }
    meta = {"kind": PAPERS[config.stage], "provenance": provenance}
    if config.stage in SPEECH:
        meta["model"] = fields
    else:
        meta["fields"] = {**fields, "torso": config.stage == "torso"}
    if "pncc_size" in data:
        meta["pncc_size"] = data["pncc_size"]
    weights.save(out, jax.tree.map(np.asarray, state.variables(averaged=True)), meta)
    return provenance


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m r3p.export", description="Write a run's averaged weights as one file."
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--halfway", action="store_true", help="the mean of its weights and of those it started from")
    parser.add_argument("--note", default="", help="goes into the provenance")
    args = parser.parse_args()
    try:
        print(json.dumps(export_portrait(args.workdir, args.out, args.note, halfway=args.halfway), indent=1))
    except InputError as error:
        print(f"r3p export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
