"""How fast shards of clips are read, and how long the preparation of whole data sets would take.

python -m benchmarks.shards SHARDS                 pairs a second of one core and of two, with PNCC maps and without
python -m benchmarks.shards --made 512             the same of made-up frames of 512 pixels: no clips are needed
python -m benchmarks.shards --hubert               cost of HuBERT's features, by the full network with random weights
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import shards
from data_pipelines.clip_pairs import ClipPairs
from data_pipelines.prepare import REPORT
from r3p import audio

# Hours of the data sets and frames at 25 Hz.
CORPORA = {"CelebV-HQ, 35,666 clips": 65 * 3600 * 25, "VoxCeleb2": 2000 * 3600 * 25}

MOTION = ("track", "fit", "speech")  # steps of utterances without pictures


def make_up(folder: Path, size: int, clips: int = 4, frames: int = 25) -> None:
    """Writes shards whose images compress about as photographs do."""
    rng = np.random.default_rng(0)
    writer = shards.ShardWriter(folder, {"size": size, "hubert": 0})
    yy, xx = np.mgrid[:size, :size] / size - 0.5
    mask = np.round(np.clip((0.3 - np.hypot(xx, yy)) * size / 4 + 0.5, 0, 1) * 255).astype(np.uint8)
    wave = np.sin(18 * xx + 7 * yy)[..., None] * 60 + 128 + np.array([0, 20, 40])
    image = np.clip(wave + rng.normal(0, 3, (size, size, 1)), 0, 255).astype(np.uint8)
    values = {k: np.zeros(spec["shape"], np.float32) for k, spec in writer.fields["frames"].items()}
    values |= {"image": image, "torso": image * (mask > 0)[..., None], "classes": mask // 64}
    values |= {"head_mask": mask, "person_mask": mask}
    shared = {"background": image, "identity": rng.normal(size=80)}
    for k in range(clips):
        records = (shards.pack(values, writer.fields["frames"]) for _ in range(frames))
        known = {"name": f"clip{k}", "person": f"clip{k}", "split": "train"}
        writer.add(known, records, shards.pack(shared, writer.fields["clips"]), None)
    writer.close()


def read(job: tuple[str, int, float, int]) -> tuple[int, float]:
    """(pairs, seconds of processor) of random pairs that one process reads for so many seconds of its processor."""
    import cv2

    cv2.setNumThreads(1)
    folder, pncc_size, seconds, seed = job
    pairs = ClipPairs(folder, seed, pncc_size)
    rng = np.random.default_rng(seed)
    _ = pairs[0]
    count, spent = 0, time.process_time()
    while time.process_time() - spent < seconds:
        _ = pairs[int(rng.integers(len(pairs)))]
        count += 1
    return count, time.process_time() - spent


def hubert_cost(seconds: float = 20.0, **sizes: Any) -> float:
    """Seconds of processor for the features of a second of sound, by a network with random weights. They cost what the
    trained ones do. The program is compiled before the clock starts. sizes: of the network, HuBERT large's by default.
    """
    import jax  # here, so that the readers' processes do without

    from r3p import hubert_features
    from r3p.models.hubert import Hubert

    model = Hubert(**sizes)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, audio.RATE), np.float32))
    variables = jax.tree.map(lambda v: 0.02 * rng.standard_normal(v.shape, np.float32), shapes)
    sound = 0.1 * rng.standard_normal(round(seconds * audio.RATE), np.float32)
    hubert_features.features(model, variables, sound)
    began = time.process_time()
    hubert_features.features(model, variables, sound)
    return (time.process_time() - began) / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="?", type=Path)
    parser.add_argument("--made", type=int, metavar="SIZE", help="make up shards of this size in a temporary folder")
    parser.add_argument("--seconds", type=float, default=5.0, help="of processor time of each process")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--hubert", action="store_true", help="also, or only, HuBERT large: 2 GB, a minute or two")
    args = parser.parse_args()
    given = (args.shards is not None) + (args.made is not None)
    if given > 1 or not (given or args.hubert):
        parser.error("give a folder of shards, or --made SIZE, or --hubert")
    if args.hubert:
        cost = hubert_cost()
        print(f"HuBERT large, random weights: {cost:.2f} s of processor a second of sound")
        for name, frames in CORPORA.items():
            print(f"{name} with --hubert: {frames * cost / 25 / 3600:,.0f} core-hours more")
    if not given:
        return 0
    with tempfile.TemporaryDirectory() as made:
        folder = args.shards or Path(made)
        if args.made:
            make_up(folder, args.made)
        for pncc in (0, 256):
            for processes in args.processes:
                jobs = [(str(folder), pncc, args.seconds, k) for k in range(processes)]
                began = time.perf_counter()
                if processes == 1:
                    done = [read(jobs[0])]
                else:
                    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
                        done = list(pool.map(read, jobs))
                pairs, spent = sum(n for n, _ in done), sum(s for _, s in done)
                maps = f", PNCC of {pncc}" if pncc else ""
                each = pairs / spent
                print(
                    f"{processes} processes{maps}: {each:.0f} pairs a second of a core, {processes * each:.0f} of all "
                    f"({pairs / (time.perf_counter() - began):.0f} by the clock, with whatever else the machine did)"
                )
        if (folder / REPORT).exists():
            report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            steps = report["milliseconds_per_frame"]
            print("prepare, ms of processor a frame: " + ", ".join(f"{k} {v:.1f}" for k, v in steps.items()))
            for name, frames in CORPORA.items():
                for what, chosen in (("", steps), (" with --motion-only", MOTION)):
                    hours = frames * sum(steps.get(k, 0) for k in chosen) / 3.6e6
                    print(f"{name}{what}: {frames:,} frames, {hours:,.0f} core-hours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
