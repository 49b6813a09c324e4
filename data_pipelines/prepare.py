"""`r3p prepare`: a folder of clips to shards, on all cores of a machine; run again, it goes on where it stopped.

Every clip is prepared by some process into a file of its own in OUT/.staged; this process appends those to the shards
in the order of the clips' names and removes them when a group of shards is complete. So the shards are the same for
any number of processes and however often a run was broken off. OUT/report.json tells what became of every clip.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from array_record.python import array_record_module
from tqdm import tqdm

from data_pipelines import workers
from data_pipelines.shards import GROUP_BYTES, ShardWriter, read_indices, write_json
from data_pipelines.sources import LAYOUTS, Source, find_clips
from r3p.errors import InputError

STAGED, REPORT = ".staged", "report.json"
REASONS = (
    "unreadable", "too short", "no face", "several faces", "cut", "face too small", "too blurred", "out of step",
    "no person", "no fit", "no sound", "crashed", "too slow",
)  # fmt: skip


class Rejected(Exception):
    """A clip that cannot be used: one of `REASONS`, and a sentence."""

    def __init__(self, reason: str, text: str):
        super().__init__(f"{reason}: {text}")
        self.reason, self.text = reason, text


@dataclass
class Prepared:
    """A clip's packed records; `frames` computes them as they are asked for. known: provenance, without times."""

    known: dict[str, Any]
    frames: Iterator[bytes]
    shared: bytes
    motion: bytes | None


def staged_path(folder: Path, name: str) -> Path:
    """Where a clip is staged; `.json` instead when it was rejected."""
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.clip"


class Stager:
    """What a process does with a clip: see the module. prepare: a Preparer, or what stands in for one."""

    def __init__(self, staged: Path, prepare: Callable[[Source], Any]):
        self.staged, self.prepare = staged, prepare

    def __call__(self, source: Source) -> None:
        path = staged_path(self.staged, source.name)
        part = path.with_suffix(f".{os.getpid()}.part")
        before = dict(self.prepare.seconds) if hasattr(self.prepare, "seconds") else {}
        try:
            self._write(source, part, before)
            os.replace(part, path)
        except Rejected as error:
            reject(self.staged, source.name, error.reason, error.text)
        except Exception as error:  # a clip must not stop the others, whatever is wrong with it
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            reject(self.staged, source.name, "crashed", text)
        finally:
            part.unlink(missing_ok=True)

    def _write(self, source: Source, part: Path, before: dict[str, float]) -> None:
        prepared = self.prepare(source)
        writer = array_record_module.ArrayRecordWriter(str(part), "group_size:1,uncompressed")
        try:
            writer.write(prepared.shared)
            if prepared.motion is not None:
                writer.write(prepared.motion)
            frames = 0
            for record in prepared.frames:
                writer.write(record)
                frames += 1
            seconds = {k: v - before.get(k, 0) for k, v in getattr(self.prepare, "seconds", {}).items()}
            head = {"known": prepared.known, "motion": prepared.motion is not None, "seconds": seconds}
            writer.write(json.dumps(head | {"frames": frames}).encode())
        finally:
            writer.close()


def reject(staged: Path, name: str, reason: str, text: str) -> None:
    """Notes in a file that a clip is not used, and why."""
    write_json(staged_path(staged, name).with_suffix(".json"), {"name": name, "reason": reason, "text": text})


def make_stager(staged: Path, settings: Any) -> Stager:
    """In each process: loads the networks."""
    from data_pipelines.clips import Preparer

    return Stager(staged, Preparer(settings))


@dataclass
class Staged:
    """A staged clip, read back."""

    head: dict[str, Any]
    shared: bytes
    motion: bytes | None
    frames: Iterator[bytes]


def read_staged(path: Path) -> Staged:
    """The clip's records; frames one by one."""
    reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
    count = reader.num_records()
    head = json.loads(reader.read([count - 1])[0])
    first = 2 if head["motion"] else 1
    frames = (reader.read([k])[0] for k in range(first, count - 1))
    return Staged(head, reader.read([0])[0], reader.read([1])[0] if head["motion"] else None, frames)


def is_staged(staged: Path, name: str) -> bool:
    """Whether a clip's work is done: it was staged or rejected."""
    path = staged_path(staged, name)
    return path.exists() or path.with_suffix(".json").exists()


class Drive(Protocol):
    """Sees to it that every clip is staged or rejected, wherever; yields after each."""

    def __call__(
        self, sources: Sequence[Source], staged: Path, make: Callable[..., Any], settings: tuple[Any, ...]
    ) -> Iterator[None]: ...


def by_processes(processes: int, limit_s: float = 3600.0) -> Drive:
    """So many processes of this machine; 0: this one, whose death is the run's."""

    def drive(
        sources: Sequence[Source], staged: Path, make: Callable[..., Any], settings: tuple[Any, ...]
    ) -> Iterator[None]:
        for source, died in workers.run(sources, processes, make, (staged, *settings), limit_s):
            if died is not None:
                reject(staged, source.name, *died.split(": ", 1))
            yield

    return drive


# ------------------------------------------------------------------------------------------------ the whole run
class Report:
    """OUT/report.json: {"counts", "rejected": {clip: {reason, text}}, "missing", "seconds" of processor a step,
    "frames"} over all runs into this folder."""

    def __init__(self, folder: Path):
        self.path = folder / REPORT
        held = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.rejected: dict[str, dict[str, str]] = held.get("rejected", {})
        self.seconds: Counter[str] = Counter(held.get("seconds", {}))
        self.frames, self.missing = held.get("frames", 0), held.get("missing", [])
        self.notes: dict[str, list[str]] = held.get("notes", {})

    def write(self, accepted: int) -> dict[str, int]:
        """Writes the file; returns the counts by what became of clips."""
        counts = {"accepted": accepted, **Counter(r["reason"] for r in self.rejected.values())}
        counts |= {"missing": len(self.missing)} if self.missing else {}
        per_frame = {k: round(v / self.frames * 1000, 2) for k, v in self.seconds.items()} if self.frames else {}
        write_json(self.path, {
            "counts": counts, "rejected": self.rejected, "missing": self.missing, "notes": self.notes,
            "seconds": dict(self.seconds), "frames": self.frames, "milliseconds_per_frame": per_frame,
        })  # fmt: skip
        return counts


def prepare(
    sources: Sequence[Source], missing: Sequence[str], folder: Path, shard_settings: dict[str, Any],
    make: Callable[..., Callable[[Source], None]], settings: tuple[Any, ...], *, drive: Drive,
    group_bytes: int = GROUP_BYTES, retry: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Prepares the clips that `folder` does not know yet and appends them to its shards. Returns the report's counts.

    make, settings: `make(staged folder, *settings)` gives what stages a clip, in each process that `drive` has.
    retry: rejected clips are tried again.
    """
    writer = ShardWriter(folder, shard_settings, group_bytes)
    staged, report = folder / STAGED, Report(folder)
    staged.mkdir(exist_ok=True)
    for part in staged.glob("*.part"):
        part.unlink()
    if retry:
        report.rejected = {}
        for note in staged.glob("*.json"):
            note.unlink()
    report.missing = list(missing)
    known = {c["name"] for index in read_indices(folder) for c in index["clips"]}
    open_ = [s for s in sources if s.name not in known and s.name not in report.rejected]
    fresh = [s for s in open_ if not is_staged(staged, s.name)]
    accepted, place = len(known), 0

    def forget(names: Sequence[str]) -> None:
        report.write(accepted)  # before the staged clips go, so that none is forgotten
        for name in names:
            staged_path(staged, name).unlink()

    def append() -> None:
        """Appends the clips in order, as far as they are staged."""
        nonlocal place, accepted
        while place < len(open_):
            path = staged_path(staged, open_[place].name)
            if (note := path.with_suffix(".json")).exists():
                told = json.loads(note.read_text(encoding="utf-8"))
                report.rejected[told["name"]] = {"reason": told["reason"], "text": told["text"]}
            elif path.exists():
                clip = read_staged(path)
                closed = writer.add(clip.head["known"], clip.frames, clip.shared, clip.motion)
                accepted += 1
                report.frames += clip.head["known"].get("length", clip.head["frames"])
                report.seconds.update(clip.head["seconds"])
                if clip.head["known"].get("notes"):
                    report.notes[open_[place].name] = clip.head["known"]["notes"]
                if closed:
                    forget(closed)
            else:
                return
            place += 1

    with tqdm(total=len(open_), initial=len(open_) - len(fresh), desc="preparing", unit="clip") as bar:
        append()
        for _ in drive(fresh, staged, make, settings):
            append()
            bar.update()
    forget(writer.close())
    shutil.rmtree(staged)
    return report.write(accepted)


def parser() -> argparse.ArgumentParser:
    """The options of `r3p prepare`."""
    p = argparse.ArgumentParser(
        prog="r3p prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: r3p prepare --input clips/ --out shards/ && r3p data check shards/",
    )  # fmt: skip
    p.add_argument("--input", type=Path, required=True, help="folder of the clips")
    p.add_argument("--out", type=Path, required=True, help="folder of the shards; one that exists is added to")
    p.add_argument("--layout", default="folder", choices=LAYOUTS, help="what the clips' paths mean")
    p.add_argument("--list", type=Path, help="celebvhq_info.json, with --layout celebvhq")
    p.add_argument("--split", help="train, validation or test for all clips, instead of one by person")
    p.add_argument("--size", type=int, default=512, help="side of the crops, pixels")
    p.add_argument("--quality", type=int, default=95, help="of JPEG")
    p.add_argument("--multiclass", type=Path, help="a selfie_multiclass TFLite file: six classes by network")
    p.add_argument("--hubert", type=Path, help="folder of a HuBERT checkpoint, for its features")
    p.add_argument("--motion-only", action="store_true", help="utterances without pictures: for speech alone")
    p.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of this machine (0: this one)")
    p.add_argument("--runner", default="processes", help="or direct, DataflowRunner, FlinkRunner ..: Apache Beam's")
    p.add_argument("beam", nargs="*", metavar="-- --OPTION", help="options of Beam's, as --project=P")
    p.add_argument("--limit", type=float, default=3600.0, metavar="S", help="seconds a clip may take")
    p.add_argument("--retry", action="store_true", help="try rejected clips again")
    return p


def _drive(args: argparse.Namespace) -> Drive:
    if args.runner == "processes":
        if args.beam:
            raise InputError(f"{' '.join(args.beam)} are options of Beam's: choose a --runner of Beam's")
        return by_processes(args.workers, args.limit)
    try:
        from data_pipelines.beam import by_beam
    except ImportError:
        raise InputError(f"--runner {args.runner} needs Apache Beam: pip install 'r3p[beam]'") from None
    return by_beam(args.runner, args.beam, max(args.workers, 1), args.limit)


def main(argv: Sequence[str] | None = None) -> int:
    """`r3p prepare`. Raises InputError for input that cannot be used; a clip that cannot be is in the report."""
    args = parser().parse_args(argv)
    if not 64 <= args.size <= 2048 or args.size % 8:
        raise InputError(f"--size is {args.size}: expected a multiple of 8 from 64 to 2048")
    if not 1 <= args.quality <= 100 or args.workers < 0:
        raise InputError(f"--quality {args.quality} and --workers {args.workers}: expected 1 to 100, and 0 or more")
    sources, missing = find_clips(args.input.expanduser(), args.layout, args.list, args.split)
    from data_pipelines.clips import Preparer, Settings

    settings = Settings(
        size=args.size, quality=args.quality, multiclass=str(args.multiclass) if args.multiclass else None,
        hubert=str(args.hubert) if args.hubert else None, motion_only=args.motion_only,
    )  # fmt: skip
    width = Preparer(settings).width  # so that a missing model is told now, once
    of_set = {"size": args.size, "fps": 25, "quality": args.quality, "hubert": width}
    of_set["classes"] = args.multiclass.name if args.multiclass else "by colour and place"
    of_set |= {"motion_only": True} if args.motion_only else {}
    out = args.out.expanduser()
    counts = prepare(sources, missing, out, of_set, make_stager, (settings,), drive=_drive(args), retry=args.retry)
    print(f"{out}: " + ", ".join(f"{n} {reason}" for reason, n in counts.items()) + f"; see {out / REPORT}")
    if not counts["accepted"]:
        print(f"r3p prepare: no clip could be used: {out / REPORT} says why for each", file=sys.stderr)
        return 2
    return 0
