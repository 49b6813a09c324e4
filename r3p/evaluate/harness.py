"""Scores all methods on all clips of a manifest and draws the figures together, failures counted."""

import json
import math
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

from r3p import __version__, audio, photo
from r3p.assets import asset_path
from r3p.errors import InputError
from r3p.evaluate import batching, frechet, uncertainty
from r3p.evaluate.clip import GROUPS, References, Score, score
from r3p.evaluate.kept import Kept
from r3p.evaluate.manifest import Row
from r3p.evaluate.metrics import METRICS, POOLED, Metric
from r3p.evaluate.networks import Networks, sha256
from r3p.evaluate.observe import frames_of, is_picture
from r3p.face import HEAD_FILE

EVERY = 5  # networks look at 1 frame of so many: neighbours say nearly the same, and VGG16 costs 2 s a frame and core
COPY, STILL = "(the truth itself)", "(source, still)"  # anchors: the floor, and what no motion at all scores
_OF_PROTOCOL = {  # networks whose figures a protocol would have
    "same": ("lpips", "inception", "arcface", "deep3d", "dlib", "syncnet"),
    "cross": ("lpips", "inception", "arcface", "deep3d"),
    "audio": ("lpips", "inception", "arcface", "deep3d", "syncnet"),
    "novel_view": ("lpips", "arcface"),
}
_ONLY_WITH_TRUTH = ("lpips_alex_a", "lpips_vgg", "akd_a")


@dataclass
class Results:
    """scores and failures by method and clip; pooled features by protocol and method, the reference's beside."""

    rows: list[Row]
    methods: list[str]
    anchors: list[str]
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    pooled: dict[tuple[str, str, str], tuple[frechet.Features, frechet.Features]] = field(default_factory=dict)
    spread: dict[tuple[str, str, str], frechet.Clips] = field(default_factory=dict)

    def common(self, protocol: str) -> list[Row]:
        """Clips that every method has."""
        return [r for r in self.rows if r.protocol == protocol and all(r.id in self.scores[m] for m in self.methods)]


def _still(row: Row, size: int, folder: Path) -> Path | None:
    """A clip of the source (or the driver's first frame) that does not move, as long as what it is compared with."""
    moving, source = row.truth or row.driver, row.source or row.truth or row.driver
    if moving is None or source is None or is_picture(moving):
        return None
    target = folder / "still"
    target.mkdir()
    frame = next(frames_of(source, size))
    photo.save_image(folder / "frame.png", frame)
    for k in range(sum(1 for _ in frames_of(moving, size))):
        (target / f"{k:06d}.png").symlink_to(folder / "frame.png")
    return target


def run(
    rows: list[Row],
    folders: dict[str, Path],
    networks: Networks,
    *,
    size: int = 512,
    every: int = EVERY,
    groups: tuple[str, ...] = GROUPS,
    anchors: bool = False,
    keep: Path | None = None,
    references: References | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Results:
    """Every method on every clip; a clip that cannot be scored is a failure of its method, with the reason.

    keep: a folder for scores, from which a run that was stopped goes on. references: of this size and `every`, with
    what is observed already.
    """
    kept = None if keep is None else Kept(keep, provenance(networks, size, every, groups))
    results = Results(rows, list(folders), [COPY, STILL] if anchors else [])
    for name in results.methods + results.anchors:
        results.scores[name], results.failures[name] = {}, {}
    references = references or References(networks, size, every=every)
    for row in rows:
        _check_references(row, size)
        with tempfile.TemporaryDirectory() as scratch:
            outputs: dict[str, Path | None] = {name: folder / row.output for name, folder in folders.items()}
            if anchors:
                outputs |= {COPY: row.truth or (row.driver if row.protocol == "same" else None)}
                outputs |= {STILL: _still(row, size, Path(scratch))}
            for name, output in outputs.items():
                if output is None:
                    continue  # an anchor that this protocol does not have
                lasting = None if name == STILL else output
                known = None if kept is None else kept.read(row, name, lasting)
                try:
                    found = known or score(row, output, networks, references, groups)
                    results.scores[name][row.id] = found
                    if kept is not None and known is None:
                        kept.write(row, name, lasting, found)
                except InputError as e:
                    results.failures[name][row.id] = str(e)
                    say(f"{row.id}: {name} failed: {e}")
        _pool(results, row)
        say(f"{row.id}: scored")
    return results


def _check_references(row: Row, size: int) -> None:
    """Raises InputError where a reference cannot be read: that is no failure of any method."""
    for path in (row.source, row.driver, row.truth):
        if path is not None:
            next(frames_of(path, size))
    if row.audio is not None:
        next(audio.stream(row.audio), None)


def _pool(results: Results, row: Row) -> None:
    """Puts a clip's features with its protocol's when every method has it, and lets go of them."""
    everyone = all(row.id in results.scores[m] for m in results.methods)
    for name in results.methods + results.anchors:
        found = results.scores[name].get(row.id)
        if found is None:
            continue
        for network, features in found.features.items() if everyone else ():
            key = (row.protocol, name, network)
            both = results.pooled.setdefault(key, (frechet.Features(), frechet.Features()))
            both[0].merge(features)
            both[1].merge(found.reference_features[network])
            clips = results.spread.setdefault(key, frechet.Clips())
            clips.add(row.identity, features.sample, found.reference_features[network].sample)
        found.features, found.reference_features = {}, {}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None  # JSON knows no NaN


def _interval(found: uncertainty.Interval) -> dict[str, Any]:
    return {k: _number(v) if isinstance(v, float) else v for k, v in asdict(found).items()}


def summary(
    results: Results, networks: Networks, *, size: int, every: int = EVERY, groups: tuple[str, ...] = GROUPS
) -> dict[str, Any]:
    """Everything a report says, ready for JSON. Figures are of the clips that all methods have."""
    protocols: dict[str, Any] = {}
    for protocol in dict.fromkeys(r.protocol for r in results.rows):
        common = results.common(protocol)
        figures = {name: _means(results, common, name) for name in results.methods + results.anchors}
        protocols[protocol] = {
            "clips": sum(r.protocol == protocol for r in results.rows),
            "common": len(common),
            "identities": len({r.identity for r in common}),
            "failures": {
                m: {r.id: reason for r in results.rows if r.protocol == protocol and (reason := f.get(r.id))}
                for m, f in results.failures.items()
            },
            "figures": figures,
            "pooled": _pooled(results, protocol),
            "differences": _differences(results, common),
            "not_computed": _missing(networks, protocol, groups, figures),
        }
    clips = [
        {
            "id": r.id, "protocol": r.protocol, "identity": r.identity, "method": m, "frames": s.frames,
            "notes": s.notes, "figures": {k: _number(v) for k, v in s.figures.items()},
        }
        for r in results.rows for m, of in results.scores.items() if (s := of.get(r.id)) is not None
    ]  # fmt: skip
    return {
        "methods": results.methods,
        "anchors": results.anchors,
        "protocols": protocols,
        "clips": clips,
        "provenance": provenance(networks, size, every, groups),
    }


def _means(results: Results, common: list[Row], name: str) -> dict[str, Any]:
    have = [r for r in common if r.id in results.scores[name]]
    out = {}
    for metric in METRICS:
        values = [results.scores[name][r.id].figures.get(metric, math.nan) for r in have]
        if any(map(math.isfinite, values)):
            out[metric] = _interval(uncertainty.bootstrap_mean(values, [r.identity for r in have]))
    return out


def _pooled(results: Results, protocol: str) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    names = {"vgg": ("vgg_fd_s", "vgg_kd_s"), "inception": ("fid_s", "kid_s")}
    for key, (ours, theirs) in results.pooled.items():
        of, method, network = key
        if of == protocol and ours.moments is not None and theirs.moments is not None:
            if min(ours.moments.count, theirs.moments.count) < 2:
                continue
            values = (
                frechet.frechet(ours.moments, theirs.moments),
                frechet.kernel_distance(ours.sample, theirs.sample),
            )
            found = zip(names[network], values, results.spread[key].intervals(values), strict=True)
            cells = {name: {"mean": v, "low": _number(low), "high": _number(high)} for name, v, (low, high) in found}
            out.setdefault(method, {}).update(cells | {"frames": ours.moments.count})
    return out


def _differences(results: Results, common: list[Row]) -> list[dict[str, Any]]:
    """Every two methods on the same clips; Holm's correction over all figures with a direction, of all pairs."""
    out: list[dict[str, Any]] = []
    for a, b in combinations(results.methods, 2):
        for metric in METRICS.values():
            x, y = ([results.scores[m][r.id].figures.get(metric.name, math.nan) for r in common] for m in (a, b))
            both = [math.isfinite(p) and math.isfinite(q) for p, q in zip(x, y, strict=True)]
            if metric.better and any(both):
                found = uncertainty.paired(x, y, [r.identity for r in common])
                out.append({"metric": metric.name, "a": a, "b": b, **_interval(found.difference), "p": found.p})
    for row, corrected in zip(out, uncertainty.holm([r["p"] for r in out]), strict=True):
        row["p"], row["p_holm"] = _number(row["p"]), _number(corrected)
    return out


def _missing(networks: Networks, protocol: str, groups: tuple[str, ...], figures: dict[str, Any]) -> dict[str, str]:
    """Figures that the protocol would have, and why they are not there."""
    there = {name for found in figures.values() for name in found}
    out = {}
    listed: dict[str, Metric] = METRICS if protocol == "novel_view" else METRICS | POOLED
    for metric in listed.values():
        if metric.network not in _OF_PROTOCOL[protocol] or metric.name in there or metric.network in networks:
            continue
        if protocol in ("same", "novel_view") or metric.name not in _ONLY_WITH_TRUTH:
            out[metric.name] = networks.missing[metric.network]
    out |= {f"group {g}": "left out by --metrics" for g in GROUPS if g not in groups}
    return out


def provenance(networks: Networks, size: int, every: int, groups: tuple[str, ...]) -> dict[str, Any]:
    """What the figures rest on."""
    detector = (
        "face_detection_short_range.tflite",
        "face_landmark_with_attention.tflite",
        "selfie_segmentation.tflite",
    )
    return {
        "r3p": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "numpy", "scipy", "opencv-python", "av")},
        "size": f"longer side {size} pixels; area averaging down, cubic up",
        "frames_per_second": 25,
        "networks_see": "every frame" if every == 1 else f"1 frame of {every}; pixels and landmarks are of every frame",
        "batch": batching.size(),
        "groups": list(groups),
        "detector": {name: sha256(asset_path(name)) for name in detector},
        "head": sha256(HEAD_FILE),
        "networks": networks.origin,
        "bootstrap": f"{uncertainty.RESAMPLES} resamples of identities, percentile, {uncertainty.LEVEL:.0%}, seed 0",
        "bootstrap_of_pooled": f"{frechet.RESAMPLES} resamples of identities, at most {frechet.SPREAD} frames a side, "
        "recentred on the figure of all frames",
    }


def write_json(report: dict[str, Any], path: Path) -> None:
    """As text that can be read."""
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
