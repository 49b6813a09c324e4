"""`r3p eval`: any systems' videos against a manifest, with failures, intervals and provenance, as a report."""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r3p import compile_cache, photo, video
from r3p.errors import InputError
from r3p.evaluate import harness, manifest, page
from r3p.evaluate.clip import GROUPS
from r3p.evaluate.metrics import METRICS
from r3p.evaluate.networks import USER, Networks
from r3p.evaluate.observe import frames_of

# What says that a clip is bad, first what is there: a figure of it.
_WORST_BY = ("lpips_alex_a", "psnr_s", "aed_fit", "shape_similarity")
_SHEET = 8  # frames


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="r3p eval",
        description="Scores the videos of one or more systems; REPORT gets report.json, report.md, report.html, plots.",
        epilog=f"the manifest's columns: {','.join(manifest.COLUMNS)}; protocols: {', '.join(manifest.PROTOCOLS)}",
    )
    out.add_argument("--manifest", type=Path, required=True, help="CSV or JSONL; paths in it are relative to it")
    out.add_argument("--methods", required=True, help="NAME=DIR,NAME=DIR: folders that hold the manifest's outputs")
    out.add_argument("--out", type=Path, required=True, metavar="REPORT", help="folder of the report")
    out.add_argument("--size", type=int, default=512, help="pixels of the frames' longer side (512)")
    out.add_argument(
        "--every",
        type=int,
        default=harness.EVERY,
        metavar="N",
        help=f"LPIPS, features, regions, identity: of 1 frame of N ({harness.EVERY}); 1 for tables as papers have them",
    )
    out.add_argument("--metrics", default=",".join(GROUPS), help=f"groups, of {','.join(GROUPS)}")
    out.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME=WEIGHTS",
        help=f"a network of your own, of {', '.join(USER)}: weights of r3p convert, or MODULE:FUNCTION",
    )
    out.add_argument("--anchors", action="store_true", help="score the truth itself and a still source, too")
    out.add_argument("--worst", type=int, default=2, help="contact sheets of each method's worst clips (2)")
    return out


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 1 when no clip is common to all methods. Raises InputError."""
    args = parser().parse_args(list(argv))
    groups = tuple(g.strip() for g in args.metrics.split(",") if g.strip())
    unknown = sorted(set(groups) - set(GROUPS))
    if unknown or not groups:
        raise InputError(f"--metrics {args.metrics!r}: expected some of {', '.join(GROUPS)}")
    if not 32 <= args.size <= 4096:
        raise InputError(f"--size {args.size}: expected 32 to 4096 pixels")
    if args.every < 1:
        raise InputError(f"--every {args.every}: expected 1 or more frames")
    user = {}
    for text in args.network:
        name, equal, target = text.partition("=")
        if not equal or not target:
            raise InputError(f"--network {text!r}: expected NAME=WEIGHTS or NAME=MODULE:FUNCTION")
        user[name] = target
    rows = manifest.read(args.manifest)
    folders = manifest.methods(args.methods)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--out {args.out} cannot be made ({e.strerror}): choose another folder") from e
    compile_cache.enable()
    networks = Networks(user)
    how: dict[str, Any] = {"size": args.size, "every": args.every, "groups": groups}
    with tqdm(total=len(rows), desc="clips", unit="clip") as bar:

        def say(text: str) -> None:
            if text.endswith(": scored"):
                bar.update()
            else:
                bar.write(text, file=sys.stderr)

        results = harness.run(rows, folders, networks, say=say, keep=args.out / "scores", anchors=args.anchors, **how)
    report = harness.summary(results, networks, **how)
    harness.write_json(report, args.out / "report.json")
    page.write(report, args.out, worst(results, folders, args.out, args.worst))
    common = sum(part["common"] for part in report["protocols"].values())
    failed = {m: len(f) for m, f in results.failures.items() if f}
    print(f"{common} of {len(rows)} clips are common to all methods; failures: {failed or 'none'}")
    print(f"report: {args.out / 'report.html'}")
    return 0 if common else 1


def worst(results: harness.Results, folders: dict[str, Path], out: Path, count: int) -> dict[str, list[str]]:
    """Contact sheets of the worst clips, the reference under the output: names by protocol."""
    names: dict[str, list[str]] = {}
    for protocol, method in itertools.product(dict.fromkeys(r.protocol for r in results.rows), results.methods):
        listed = names.setdefault(protocol, [])
        scores = {
            r: s.figures for r in results.rows if r.protocol == protocol and (s := results.scores[method].get(r.id))
        }
        by = next((m for m in _WORST_BY if any(m in f for f in scores.values())), None)
        if by is None or count < 1:
            continue
        sign = 1 if METRICS[by].better == "less" else -1
        ranked = sorted((r for r in scores if by in scores[r]), key=lambda r: -sign * scores[r][by])
        for k, row in enumerate(ranked[:count]):
            strips = []
            for path in (folders[method] / row.output, row.truth or row.driver or row.source):
                if path is not None:
                    every = max(1, results.scores[method][row.id].frames // _SHEET)
                    strips.append(video.contact_sheet(frames_of(path, 160), columns=_SHEET, rows=1, every=every))
            (out / "worst").mkdir(exist_ok=True)
            name = f"worst/{protocol}_{list(folders).index(method)}_{k}.png"
            width = max(s.shape[1] for s in strips)
            wide = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0))) for s in strips]
            photo.save_image(out / name, np.concatenate(wide))
            listed.append(name)
    return names
