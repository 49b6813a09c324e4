"""Scores the runs of an ablation on the same held-out examples, and puts them into a table against the default.

A run's finished frames are compared with true ones: the smoke models' frames are too small for the networks that follow
faces. `python -m r3p.evaluate.held_out --weights` scores an exported full model in all protocols.
"""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r3p.errors import InputError
from r3p.evaluate import uncertainty
from r3p.evaluate.metrics import METRICS
from r3p.evaluate.networks import Networks
from r3p.evaluate.pixels import PixelTotals
from r3p.export import read_run
from r3p.train import load_stage

FIGURES = ("psnr_s", "ssim_s", "l1_s", "lpips_alex_a", "lpips_vgg")
Scores = dict[str, list[float]]
_CHANCE = 2.0  # an effect is more than so many times the difference that another seed makes, which is one draw


def pictures(strip: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """The pictures [s, s, 3] of a preview's first row, by the names that its own name lists."""
    names = name.split("_")
    side = strip.shape[1] // len(names)
    return {n: strip[:side, k * side : (k + 1) * side] for k, n in enumerate(names)}


def score_run(workdir: Path, networks: Networks, count: int, seed: int | None = None) -> Scores:
    """Figures of each of `count` held-out examples by name: the first of each of the stage's own held-out batches, the
    same for every run; `seed` says whose, when the run was not of that seed.

    Raises InputError when there is no checkpoint, or the stage shows no finished frame.
    """
    config, state = read_run(workdir)
    with config.unlocked():
        config.held_out_batches = count
        config.seed = config.seed if seed is None else seed
    stage = load_stage(config)
    out: Scores = {name: [] for name in FIGURES if name in ("psnr_s", "ssim_s", "l1_s") or "lpips" in networks}
    if stage.preview is None or stage.held_out is None:
        raise InputError(f"{workdir} is a run of {config.stage}, which shows no pictures: score a run of the torso")
    for batch in tqdm(islice(stage.held_out(), count), total=count, desc=f"scoring {workdir}", unit="example"):
        ((name, strip),) = stage.preview(state, batch).items()
        found = pictures(strip, name)
        if "image" not in found:
            raise InputError(f"{workdir} is a run of {config.stage}, which makes no finished frame: score the torso's")
        ours, truth = found["image"][None], found["target"][None]
        totals = PixelTotals()
        totals.add(ours, truth)
        figures = totals.figures()
        if "lpips" in networks:
            figures["lpips_alex_a"] = float(networks.lpips("alexnet", ours, truth)[0])
            figures["lpips_vgg"] = float(networks.lpips("vgg16", ours, truth)[0])
        for key, values in out.items():
            values.append(figures[key])
    return out


def _word(metric: str, found: uncertainty.Paired, corrected: float, chance: float) -> str:
    """What can be said of a row less the default. chance: by how much a run differs that changes nothing."""
    difference = found.difference
    if not math.isfinite(difference.low):
        return "too few examples to tell"
    if difference.low <= 0 <= difference.high or not corrected < 0.05:
        return "too small a run or too few examples to tell"
    if abs(difference.mean) <= _CHANCE * abs(chance):
        return "within twice what another seed does: too small a run to tell"
    good = (difference.mean > 0) == (METRICS[metric].better == "more")
    return "better than the default" if good else "worse than the default"


def compare(default: Scores, rows: Mapping[str, Scores], again: str = "") -> list[dict[str, Any]]:
    """One entry a row and figure: means with intervals, the paired difference from the default, and a plain word.

    again: the row that is the default itself with another seed. What differs no more than it does says nothing.
    """
    out: list[dict[str, Any]] = []
    p: list[float] = []
    found: list[uncertainty.Paired] = []
    for row, scores in rows.items():
        for metric, values in scores.items():
            who = [str(k) for k in range(len(values))]
            pair = uncertainty.paired(values, default[metric][: len(values)], who)
            mean = uncertainty.bootstrap_mean(values, who)
            out.append({
                "row": row, "metric": metric, "mean": mean.mean, "low": mean.low, "high": mean.high,
                "difference": pair.difference.mean, "difference_low": pair.difference.low,
                "difference_high": pair.difference.high, "p": pair.p, "examples": len(values),
            })  # fmt: skip
            p.append(pair.p)
            found.append(pair)
    chances = {e["metric"]: e["difference"] for e in out if e["row"] == again}
    for entry, pair, corrected in zip(out, found, uncertainty.holm(p), strict=True):
        entry["p_holm"] = float(corrected)
        chance = chances.get(entry["metric"], 0.0)
        entry["word"] = "chance" if entry["row"] == again else _word(entry["metric"], pair, corrected, chance)
    return out


def markdown(entries: Sequence[Mapping[str, Any]], default: Scores, told: str) -> str:
    """The table of `compare` as a page; `told` says what was trained."""
    lines = ["# Ablations", "", told, ""]
    for metric, values in default.items():
        mean = uncertainty.bootstrap_mean(values, [str(k) for k in range(len(values))])
        title, better = METRICS[metric].title, METRICS[metric].better
        lines += [
            f"## {title} ({better} is better)", "",
            f"Default: {mean.mean:.4g} [{mean.low:.4g}, {mean.high:.4g}] of {mean.clips} examples.", "",
            "| row | mean [95 %] | less the default [95 %] | p (Holm) | in words |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for e in entries:
            if e["metric"] == metric:
                lines.append(
                    f"| {e['row']} | {e['mean']:.4g} [{e['low']:.4g}, {e['high']:.4g}] | {e['difference']:+.4g} "
                    f"[{e['difference_low']:+.4g}, {e['difference_high']:+.4g}] | {e['p_holm']:.3g} | {e['word']} |"
                )
        lines.append("")
    return "\n".join(lines)


def kept_scores(path: Path, workdir: Path, networks: Networks, count: int, seed: int | None = None) -> Scores:
    """`score_run`, or what an earlier call left in `path` for as many examples."""
    try:
        told = json.loads(path.read_text())
        if told["examples"] == count:
            return dict(told["scores"])
    except (OSError, ValueError, KeyError):
        pass
    scores = score_run(workdir, networks, count, seed)
    path.write_text(json.dumps({"examples": count, "scores": scores}) + "\n")
    return scores
