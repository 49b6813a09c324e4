"""`r3p parity`: our networks against recorded runs of the official PyTorch code, on whatever device jax has here."""

import argparse
import fnmatch
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from r3p.errors import InputError
from r3p.parity.cases import ROLES, Folder
from r3p.parity.suite import Result, run
from r3p.weights import whole_file

EXAMPLES = """examples:
  r3p parity --cases golden/public
  r3p parity --cases golden/public --only 'render_*' --only hubert_small --json parity.json

The folder holds CASE.npz, its parent manifests/MODEL.json and NOISE.json. Weights are drawn from the manifests, go
through the tables of `r3p convert`, and run in float32 at the highest precision. Outputs and inner results (seams) may
differ by 30 times what rounding did to the original, but at least by 1e-5; gradients by as much, but at least by 1e-3
(relative L2). The exit status is 1 when something differs by more or a case has no counterpart here.
"""
_HEADER = f"{'case':28}{'outputs':>9}{'seams':>9}{'gradients':>11}{'bound':>9}{'seconds':>9}  nearest its bound"


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="r3p parity",
        description="Compares the networks with recorded runs of the official PyTorch code; a row a case.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--cases", type=Path, required=True, metavar="DIR", help="the folder with CASE.npz")
    p.add_argument(
        "--only", action="append", metavar="CASE", help="a case, or a pattern such as 'render_*'; repeatable"
    )
    p.add_argument("--seed", metavar="S", help="draw weights and inputs from this seed, not from each case's own")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    return p


def main(argv: Sequence[str]) -> int:
    """`r3p parity`. Returns 0, or 1 when a case failed; raises InputError for a folder that cannot be used."""
    args = _parser().parse_args(argv)
    folder = Folder(args.cases)
    if args.json and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        raise InputError(f"--json is {args.json}: give the name of a file in a folder that exists")
    names = chosen(folder.names(), args.only)
    for name in names:  # what is missing shows before an hour has passed
        folder.case(name, args.seed)
    device = jax.devices()[0]
    print(f"float32, {jax.default_backend()} ({device.device_kind}), jax {jax.__version__}\n{_HEADER}", flush=True)
    results = []
    with tqdm(names, unit="case", disable=None) as bar:
        for name in bar:
            bar.set_postfix_str(name)
            results.append(run(folder.case(name, args.seed)))
            bar.write(row(results[-1]), file=sys.stdout)
            jax.clear_caches()  # the programs of one case are of no use to the next
    failed = [r.case for r in results if not r.passed]
    left_out = sum(bool(r.left_out) for r in results)
    within = len(results) - len(failed) - left_out
    print(
        f"{within} of {len(results) - left_out} cases within their bounds" + (f", {left_out} left out" * bool(left_out))
    )
    if args.json:
        text = json.dumps(
            {"backend": jax.default_backend(), "device": device.device_kind, "rows": [_figures(r) for r in results]}
        )
        with whole_file(args.json) as file:
            file.write(text.encode())
    if failed:
        print(f"r3p parity: not at parity: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def chosen(names: Sequence[str], only: Sequence[str] | None) -> list[str]:
    """Those of `names` that one of the patterns `only` fits; all without patterns.

    Raises:
      InputError: for a pattern that fits none.
    """
    if only is None:
        return list(names)
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            raise InputError(f"--only {pattern} fits no case of the folder, which holds {', '.join(names)}")
    return [n for n in names if any(fnmatch.fnmatchcase(n, pattern) for pattern in only)]


def row(result: Result) -> str:
    """One line: the worst relative L2 errors, the bound of what comes nearest its own, seconds."""
    if result.left_out or result.problem:
        return f"{result.case:28}" + (
            f"left out: {result.left_out}" if result.left_out else f"FAILED: {result.problem}"
        )
    nearest = result.nearest
    assert nearest is not None
    cells = [_number(result.worst(role)) for role in ROLES.values()]
    text = f"{result.case:28}{cells[0]:>9}{cells[1]:>9}{cells[2]:>11}{nearest.bound:>9.1e}{result.seconds:>9.1f}"
    text += f"  {nearest.name} {nearest.error:.1e}"
    over = [c.name for c in result.comparisons if not c.passed]
    return text + (f"  FAILED: {', '.join(over)}" if over else "")


def _number(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


def _figures(result: Result) -> dict[str, Any]:
    def plain(x: float | None) -> float | None:
        return x if x is None or math.isfinite(x) else None  # JSON knows no other numbers

    nearest = result.nearest
    return {
        "case": result.case,
        "passed": result.passed,
        "left_out": result.left_out or None,
        "problem": result.problem or None,
        **{role: plain(result.worst(role)) for role in ROLES.values()},
        "nearest": nearest and nearest.name,
        "error": nearest and plain(nearest.error),
        "bound": nearest and nearest.bound,
        "seconds": round(result.seconds, 2),
        "arrays": {
            c.name: {"role": c.role, "error": plain(c.error), "bound": c.bound, "passed": c.passed}
            for c in result.comparisons
        },
    }
