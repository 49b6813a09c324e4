"""Measures a trained speech-to-expression network on held-out speech and writes its weight file.

python -m r3p.evaluate.audio2motion --workdir RUN --out r3p/assets/audio2motion.npz --report RUN/report.json
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.phonemes import CLOSED, PHONE_NAMES, SILENCE
from data_pipelines.speech_crops import Speech
from r3p import face, weights
from r3p.checkpoint import Checkpoints
from r3p.errors import InputError
from r3p.evaluate import series
from r3p.models.audio2motion import AudioToMotion
from r3p.speech_motion import WEIGHTS_KIND
from r3p.stages import audio2motion as stage
from r3p.state import TrainState


def read_run(workdir: Path) -> tuple[ConfigDict, TrainState]:
    """Config and newest state of a training run."""
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a folder that r3p.train wrote")
    config = ConfigDict(json.loads(path.read_text()))
    checkpoints = Checkpoints(workdir / "checkpoints", every=config.checkpoint_every, keep=config.checkpoints_kept)
    try:
        if checkpoints.latest() is None:
            raise InputError(f"{workdir} has no checkpoint: train first")
        state = checkpoints.restore(jax.eval_shape(stage.make(config).init, jax.random.key(0)))
    finally:
        checkpoints.close()
    return config, state


def measure(model: AudioToMotion, variables: Any, speech: Speech, temperature: float) -> dict[str, float]:
    """Prediction against truth for held-out speech: lip gaps in eye distances on the mean head.

    Returns:
      gap_correlation, gap_error (mean absolute), gap_ratio (spread against the truth's), gap_neutral, and the median
      gap of prediction and truth while lips are to be shut, in silence, and on open vowels.
    """
    head = face.load_face_model()
    apply = jax.jit(lambda mel, pitch, noise: model.apply(variables, mel, pitch, noise=noise))
    rng = np.random.default_rng(0)
    predicted = np.zeros_like(speech.expression)
    longest = int(np.diff(speech.starts).max())
    frames = -(-longest // model.stride) * model.stride
    for a, b in zip(speech.starts[:-1], speech.starts[1:], strict=True):
        missing = frames - (b - a)
        mel = np.pad(speech.mel[2 * a : 2 * b], ((0, 2 * missing), (0, 0)), mode="edge")
        pitch = np.pad(speech.pitch[2 * a : 2 * b], (0, 2 * missing))
        noise = temperature * rng.normal(size=(1, frames // model.stride, model.latent))
        predicted[a:b] = apply(mel[None], pitch[None], jnp.asarray(noise, jnp.float32))[0, : b - a]
    gap = stage.gap_direction(head)
    points = face.landmarks(head, head.mean)
    neutral = float(face.lip_gap(points))
    seen, meant = (neutral + y @ gap for y in (predicted, speech.expression))
    out = {
        "gap_correlation": series.correlation(seen, meant)[0],
        "gap_error": np.abs(seen - meant).mean(),
        "gap_ratio": seen.std() / meant.std(),
        "gap_neutral": neutral,
    }
    for name, phones in (("shut", CLOSED), ("silence", (SILENCE,)), ("open", ("aa", "ae", "ay", "aw"))):
        chosen = np.isin(speech.phone, [PHONE_NAMES.index(p) for p in phones])
        out[f"gap_{name}"], out[f"gap_{name}_truth"] = np.median(seen[chosen]), np.median(meant[chosen])
    return {k: round(float(v), 4) for k, v in out.items()}


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m r3p.evaluate.audio2motion", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path, help="of the training run")
    parser.add_argument("--data", type=Path, help="speech.npz; the run's own when absent")
    parser.add_argument("--out", type=Path, help="weight file to write, float16")
    parser.add_argument("--report", type=Path, help="JSON file to write")
    parser.add_argument("--note", default="", help="goes into the provenance")
    args = parser.parse_args(argv)
    try:
        config, state = read_run(args.workdir)
        speech = Speech(args.data or config.data.path, held_out=True)
    except InputError as error:
        print(f"r3p audio2motion: {error}", file=sys.stderr)
        return 2
    model, variables = AudioToMotion(**config.model.to_dict()), state.variables(averaged=True)
    figures = {f"temperature_{t}": measure(model, variables, speech, t) for t in (0.0, 0.2)}
    report = {
        "steps": int(state.step),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "held_out_frames": len(speech),
        "held_out": figures,
    }
    print(json.dumps(report, indent=1))
    if args.report:
        args.report.write_text(json.dumps(report, indent=1) + "\n")
    if args.out:
        provenance = {
            "commands": [
                "python -m data_pipelines.speech --out DIR --utterances 7300 --seed 1",
                "python -m r3p.train --config configs/audio2motion.py:small --set data.path=DIR/speech.npz",
            ],
            "data": "synthetic speech of flite's voices slt, rms, kal16; held out: voice awb and other sentences",
            "seed": config.seed,
            "batch_size": config.batch_size,
            "hardware": f"{jax.default_backend()}, {platform.machine()}",
            **report,
        }
        if args.note:
            provenance["note"] = args.note
        meta = {"kind": WEIGHTS_KIND, "model": config.model.to_dict(), "provenance": provenance}
        weights.save(args.out, variables, meta, dtype=np.float16)
    return 0


if __name__ == "__main__":
    sys.exit(main())
