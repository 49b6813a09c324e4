"""What `r3p plan` says of every full config on some pods, as the table of README.

    python -m benchmarks.plan --out plans/ --quick img2plane motion2plane torso --readme README.md

A plan that is in the folder is not made again, so that a run which was stopped goes on; `--only` makes some of them.
Each is a process of its own and takes minutes.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from r3p.errors import InputError

STAGES = ("img2plane", "motion2plane", "torso", "syncnet", "audio2motion")
TOPOLOGIES = ("v5e-16", "v5e-256", "v5p-128", "v6e-64", "h100-8")
BEGIN, END = "<!-- plans -->", "<!-- /plans -->"
COLUMNS = (
    "config", "pod", "examples a chip", "memory a chip", "TFLOP", "GB moved", "MB sent", "step at best", "bound by",
    "activations gathered", "largest batch a chip", "compiled in",
)  # fmt: skip
HEAD = (f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}")


def row(made: dict[str, Any]) -> str:
    """A line of the table, of one plan; figures are of one chip and step."""
    seconds = made["seconds"]
    bound = max(seconds, key=seconds.get)
    least = f"{seconds[bound] * 1e3:.3g} ms"
    if made.get("quick") and bound == "memory":  # the real program's traffic is less
        least = f"{max(seconds['compute'], seconds['network']) * 1e3:.3g} to {least}"
    sent = sum(kind["bytes"] for kind in made["collectives"].values())
    largest = "" if made["largest"] is None else f"{made['largest']}"
    if made["largest"] is not None and made["refused"] != made["largest"] + 1:
        largest += " at least"
    cells = [
        made["config"].removeprefix("configs/").replace(".py", ""),
        f"{made['topology']}, {made['chips']} chips",
        f"{made['per_chip']}",
        f"{made['memory']['total'] / 2**30:.2f} of {made['capacity'] / 2**30:.2f} GiB",
        f"{made['flops'] / 1e12:.3g}",
        f"{made['moved'] / 1e9:.3g}",
        f"{sent / 1e6:.4g}",
        least,
        bound,
        f"{len(made['gathers'])}" if made["gathers"] else "none",
        largest,
        f"{made['compiling']:.0f} s{', quick' if made.get('quick') else ''}",
    ]
    return f"| {' | '.join(cells)} |"


def table(folder: Path) -> str:
    """All plans of a folder, in the order of `STAGES` and `TOPOLOGIES`."""
    paths = [folder / f"{stage}-{topology}.json" for stage in STAGES for topology in TOPOLOGIES]
    rows = [*HEAD, *(row(json.loads(p.read_text())) for p in paths if p.exists())]
    cells = [line.split("|")[1:-1] for line in rows]
    # A column that no plan fills is left out.
    kept = [k for k in range(len(cells[0])) if any(line[k].strip() for line in cells[2:]) or not cells[2:]]
    return "\n".join(f"|{'|'.join(line[k] for k in kept)}|" for line in cells)


def write(readme: Path, text: str) -> None:
    """Puts the table between its marks."""
    page = readme.read_text()
    if BEGIN not in page or END not in page:
        raise InputError(f"{readme} has no lines {BEGIN} and {END}: put them where the table is to stand")
    before, rest = page.split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description="The plans' table of README.")
    parser.add_argument("--out", required=True, type=Path, help="a folder for the plans, one JSON file each")
    parser.add_argument("--only", nargs="*", metavar="STAGE-TOPOLOGY", help="make these only; none = only the table")
    parser.add_argument("--tries", default="4", help="see `r3p plan --help`")
    parser.add_argument("--quick", nargs="*", default=(), metavar="STAGE", help="compile these with the least effort")
    parser.add_argument("--readme", type=Path, help="whose table is to be written anew; else it is printed")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for stage in STAGES:
        for topology in TOPOLOGIES:
            path = args.out / f"{stage}-{topology}.json"
            if path.exists() or (args.only is not None and path.stem not in args.only):
                continue
            command = [sys.executable, "-m", "r3p", "plan", "--config", f"configs/{stage}.py:full"]
            command += ["--topology", topology, "--tries", args.tries, "--json", str(path)]
            command += ["--quick"] * (stage in args.quick)
            failed += subprocess.run(command).returncode != 0
    try:
        if args.readme:
            write(args.readme, table(args.out))
        else:
            print(table(args.out))
    except InputError as error:
        print(f"benchmarks.plan: {error}", file=sys.stderr)
        return 2
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
