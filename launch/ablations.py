"""Trains every row of configs/ablations.py, scores each on the same held-out examples, and writes the table.

    python -m launch.ablations --out ~/r3p_runs/ablations --mode smoke
    python -m launch.ablations --out /mnt/runs/ablations --mode full \
        --launch "python -m launch tpu --name my-slice --zone us-west4-a --" \
        --set data.source=shards --set data.folder=/mnt/data/frames

`smoke` is meant for two cores: every row in some minutes, and the table says where that is too little to tell. `full`
starts its runs on a pod, from one machine that sees the same folder; see `python -m launch --help`. What is done stays:
started again, the command goes on with the stage where it stopped, and a stage with its last checkpoint.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from configs.ablations import ROWS, STAGES  # noqa: E402

DEFAULT = "default"
AGAIN, OTHER_SEED = "another_seed", 1001  # no ablation: the default's last stage once more, to show what chance does
TABLE = ("table.json", "table.md")


@dataclass(frozen=True)
class Run:
    """One stage of a row: its config as `r3p.train` takes it, what else is set, and the run it begins from."""

    row: str
    stage: str
    config: str
    start: str | None
    sets: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Under --out."""
        return f"{self.row}/{self.stage}"


def runs(rows: Sequence[str], mode: str) -> list[Run]:
    """What has to be trained for these rows, the default first, each after what it begins from."""
    out = []
    for row in (DEFAULT, *(r for r in rows if r != DEFAULT)):
        if row == AGAIN:
            *_, before, last = STAGES
            out.append(Run(row, last, f"configs/{last}.py:{mode}", f"{DEFAULT}/{before}", (f"seed={OTHER_SEED}",)))
            continue
        changed, start, own = ROWS.get(row, {}), None, row == DEFAULT
        for stage in STAGES:
            own = own or stage in changed
            if not own:
                start = f"{DEFAULT}/{stage}"  # as the default has it
                continue
            config = f"configs/ablations.py:{row}.{stage}.{mode}" if stage in changed else f"configs/{stage}.py:{mode}"
            fresh = changed.get(stage, {}).get("start") == ""
            out.append(Run(row, stage, config, None if fresh else start))
            start = f"{row}/{stage}"
    return out


def last_of(row: str) -> str:
    """The run whose frames are scored."""
    return f"{row}/{list(STAGES)[-1]}"


def train(run: Run, out: Path, launch: Sequence[str], more: Sequence[str]) -> list[str]:
    """The command."""
    given = [*more, *run.sets, *([f"start={out / run.start}"] if run.start else [])]
    sets = [part for text in given for part in ("--set", text)]
    return [*launch, "--config", run.config, "--workdir", str(out / run.folder), *sets]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m launch.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs and of the table")
    parser.add_argument("--mode", choices=("smoke", "full"), default="smoke")
    parser.add_argument(
        "--rows", default=",".join((AGAIN, *ROWS)), help="those wanted (all); the default is always made"
    )
    parser.add_argument("--examples", type=int, default=64, help="held-out examples to score on (64)")
    parser.add_argument("--launch", help="what starts a training run, up to and with its --; this machine when absent")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for every run")
    parser.add_argument("--dry-run", action="store_true", help="print the training commands")
    args = parser.parse_args(argv)
    args.rows = [r for r in args.rows.split(",") if r]
    if unknown := [r for r in args.rows if r not in (AGAIN, *ROWS)]:
        parser.error(f"row {unknown[0]!r}: choose of {', '.join((AGAIN, *ROWS))}")
    if args.examples < 2:
        parser.error("--examples: expected 2 or more")
    args.out = args.out.expanduser().absolute()
    args.launch = shlex.split(args.launch) if args.launch else [sys.executable, "launch/run.py", "--"]
    return args


def main(argv: Sequence[str] | None = None, call: Callable[[list[str]], int] | None = None) -> int:
    """The command line; returns the exit status. call: runs a training command, for tests."""
    args = parse(argv)
    todo = runs(args.rows, args.mode)
    if args.dry_run:
        for run in todo:
            print(shlex.join(train(run, args.out, args.launch, args.set)))
        return 0
    call = call or (lambda command: subprocess.run(command, cwd=ROOT, check=False).returncode)
    for k, run in enumerate(todo):
        done = args.out / run.folder / "finished"
        if done.exists():
            continue
        print(f"{k + 1} of {len(todo)}: training {run.folder}", flush=True)
        status = call(train(run, args.out, args.launch, args.set))
        if status:
            print(f"ablations: {run.folder} ended with status {status}; start again to go on", file=sys.stderr)
            return status
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
        if run.stage == list(STAGES)[-1]:
            write_table(args)
    write_table(args)
    return 0


def write_table(args: argparse.Namespace) -> None:
    """Scores what is finished and writes the table; rows that are not finished are named in it."""
    from r3p.evaluate import ablation
    from r3p.evaluate.networks import Networks

    networks = Networks()
    wanted = [DEFAULT, *(r for r in args.rows if r != DEFAULT)]
    finished = [r for r in wanted if (args.out / last_of(r) / "finished").exists()]
    if DEFAULT not in finished:
        return
    seed = json.loads((args.out / last_of(DEFAULT) / "config.json").read_text())["seed"]
    scores = {
        row: ablation.kept_scores(
            args.out / row / "scores.json", args.out / last_of(row), networks, args.examples, seed
        )
        for row in finished
    }
    default = scores.pop(DEFAULT)
    entries = ablation.compare(default, scores, AGAIN)
    missing = [r for r in wanted if r not in finished]
    told = (
        f"Trained with `--mode {args.mode}`{''.join(f' --set {s}' for s in args.set)}; finished frames of "
        f"{args.examples} held-out synthetic people against the truth, the same for every row; paired differences with "
        "bootstrap intervals over people, Wilcoxon's test with Holm's correction. Every row is one run; what chance "
        f"does is in `{AGAIN}`, the default's last stage trained again with another seed."
    )
    if missing:
        told += f" Not finished yet: {', '.join(missing)}."
    args.out.joinpath(TABLE[0]).write_text(json.dumps({"told": told, "default": default, "rows": entries}) + "\n")
    args.out.joinpath(TABLE[1]).write_text(ablation.markdown(entries, default, told))
    print(f"table: {args.out / TABLE[1]}")


if __name__ == "__main__":
    sys.exit(main())
