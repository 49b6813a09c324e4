"""Scores a portrait model on people it never saw, beside two baselines, in all protocols, with `r3p eval`'s harness.

    python -m r3p.evaluate.held_out --out ~/r3p_runs/held_out --people 50
    python -m r3p.evaluate.held_out --out ~/r3p_runs/adapted --people 3 --adapt 170 --real clip.mp4

Baselines: `still` shows the photograph and nothing else; `puppet` is the fitted head that wears the photograph
(`r3p.puppet`), also the teacher of the adaptation. Methods get the photograph and the driver's motion as `r3p talk`
gets it: fitted to the driver's frames, its turns laid on the photograph's pose. For the novel view they get the pose
that was fitted to the turned picture.

An adaptation of 170 steps takes about a minute on two processors, so that 50 people want an hour; `--adapt 0` scores
the weights as they are, which says less of what `r3p talk` gives a user and more of the weights. Whatever was made or
scored stays in the folder: the command goes on where it was stopped. `--record` puts the figures into the provenance of
the weights that were scored.
"""

import argparse
import csv
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from r3p import audio, avatar, compile_cache, face, fit, memory, motion, photo, speech_motion
from r3p.detect import FaceFinder
from r3p.errors import InputError
from r3p.evaluate import command, manifest, record, subjects
from r3p.evaluate.clip import GROUPS
from r3p.puppet import Puppet
from r3p.talk import DEMO_SPEECH

PROTOCOLS = ("novel_view", "same", "cross", "audio")
Frames = Callable[[avatar.Motion], Iterator[np.ndarray]]
_PER_FRAME = audio.RATE // 25


@dataclasses.dataclass(frozen=True)
class Job:
    """One clip to make of a subject: the manifest's row and what moves the head, for the fit of the photograph."""

    row: dict[str, str]
    move: Callable[[fit.Fit], avatar.Motion]


def _follow(driver: fit.Fit) -> Callable[[fit.Fit], avatar.Motion]:
    def move(own: fit.Fit) -> avatar.Motion:
        given = motion.Poses(np.asarray(driver.euler, np.float64), np.asarray(driver.trans, np.float64))
        laid = motion.map_to_initial(motion.hold_depth(given), own.euler, own.trans)
        return avatar.Motion(driver.expression, laid.euler, laid.trans)

    return move


def _speak(sound: np.ndarray) -> Callable[[fit.Fit], avatar.Motion]:
    def move(own: fit.Fit) -> avatar.Motion:
        model, variables = speech_motion.load_default()
        spoken = speech_motion.expression_from_speech(model, variables, sound, mouth_amp=0.3)
        names = list(face.load_face_model().expression_names)
        kept = [n.startswith(("brow", "cheek", "eyeSquint", "eyeLook", "eyeWide")) for n in names]
        spoken = spoken + np.where(kept, own.expression, 0).astype(np.float32)
        poses = motion.static(own.euler, own.trans, len(spoken))
        return avatar.Motion(spoken, poses.euler, poses.trans)

    return move


def _as_seen(view: fit.Fit) -> Callable[[fit.Fit], avatar.Motion]:
    def move(own: fit.Fit) -> avatar.Motion:
        return avatar.Motion(own.expression[None], view.euler[:1], view.trans[:1])

    return move


def _save(path: Path, sound: np.ndarray) -> None:
    """Leaves a file alone that holds the same: scores are kept for as long as the files that they rest on."""
    path.parent.mkdir(exist_ok=True)
    half = path.with_suffix(".half")
    audio.save_wav(half, sound)
    if path.exists() and path.read_bytes() == half.read_bytes():
        half.unlink()
    else:
        half.replace(path)


def jobs(subject: subjects.Subject, driver: subjects.Subject, sound: np.ndarray, out: Path) -> list[Job]:
    """A clip of each protocol; `driver` is another person."""
    paths = {"source": subject.source, "identity": subject.name}

    def row(protocol: str, **more: Path) -> dict[str, str]:
        name = f"{subject.name}-{protocol}"
        return {k: str(v) for k, v in (paths | more).items()} | {"id": name, "protocol": protocol, "output": name}

    spoken = out / "sounds" / f"{subject.name}.wav"
    _save(spoken, sound)
    out_jobs = [
        Job(row("same", driver=subject.truth, truth=subject.truth), _follow(subject.clip)),
        Job(row("cross", driver=driver.truth), _follow(driver.clip)),
        Job(row("audio", audio=spoken), _speak(sound)),
    ]
    if subject.view is not None:
        out_jobs.insert(0, Job(row("novel_view", truth=subject.view_truth / "0000.png"), _as_seen(subject.view)))
    return out_jobs


def make(jobs: Sequence[Job], own: fit.Fit, frames: Frames, folder: Path) -> None:
    """Every job's frames as PNG files; what is whole already is left alone."""
    for job in jobs:
        target = folder / job.row["output"]
        if target.exists():
            continue
        half = folder / f".{target.name}"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        for k, frame in enumerate(frames(job.move(own))):
            photo.save_image(half / f"{k:04d}.png", frame)
        half.rename(target)


def _whole(jobs: Sequence[Job], folder: Path) -> bool:
    return all((folder / job.row["output"]).exists() for job in jobs)


class Methods:
    """What is compared: `ours`, adapted to the photograph for some steps, and the baselines."""

    def __init__(self, out: Path, finder: FaceFinder, weights: Path | None, adapt: int) -> None:
        self.out, self.finder, self.weights, self.adapt = out, finder, weights, adapt
        self.ours = "ours" if not adapt else f"ours_{adapt}_steps"
        self.names = (self.ours, "still", "puppet")

    def folders(self) -> str:
        """As `r3p eval --methods` wants them."""
        return ",".join(f"{name}={self.out / name}" for name in self.names)

    def make(self, subject: subjects.Subject, todo: Sequence[Job]) -> None:
        """All methods' clips of a subject."""
        if all(_whole(todo, self.out / name) for name in self.names):
            return
        crop, layers, own = avatar.find_portrait(subject.photograph, self.finder, name=subject.name)
        small = cv2.resize(crop.image, (subjects.SIDE, subjects.SIDE), interpolation=cv2.INTER_AREA)
        make(todo, own, lambda move: iter([small] * len(move.expression)), self.out / "still")
        if not _whole(todo, self.out / "puppet"):
            puppet = Puppet(crop.image, crop.landmarks, own, layers, size=subjects.SIDE)

            def worn(move: avatar.Motion) -> Iterator[np.ndarray]:
                for e, euler, trans in zip(move.expression, move.euler, move.trans, strict=True):
                    yield puppet.render(e, euler, trans, segmap=False)["image"]

            make(todo, own, worn, self.out / "puppet")
        if not _whole(todo, self.out / self.ours):
            person = avatar.prepare(
                subject.photograph, steps=self.adapt, name=subject.name, model_path=self.weights, finder=self.finder
            )
            make(todo, own, lambda move: (f.image for f in avatar.frames(person, move)), self.out / self.ours)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m r3p.evaluate.held_out",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--out", type=Path, required=True, help="folder for clips, scores and the report")
    out.add_argument("--people", type=int, default=50, help="synthetic people (50)")
    out.add_argument("--frames", type=int, default=12, help="of each of their clips (12)")
    out.add_argument("--real", type=Path, help="also score on a video of a real person")
    out.add_argument("--real-frames", type=int, default=50, help="of it, from its start (50)")
    out.add_argument("--adapt", type=int, default=0, metavar="STEPS", help="adaptation to each photograph (0)")
    out.add_argument("--weights", type=Path, help="model weights instead of the embedded default")
    out.add_argument("--protocols", default=",".join(PROTOCOLS), help="those wanted")
    out.add_argument(
        "--metrics",
        default=",".join(g for g in GROUPS if g != "lpips_vgg"),
        help="groups of r3p eval; all but the slowest, LPIPS with VGG16, when absent",
    )
    out.add_argument("--every", type=int, default=3, metavar="N", help="networks look at 1 frame of N (3)")
    out.add_argument("--record", action="store_true", help="put the figures into the weight file's provenance")
    out.add_argument("--only-make", action="store_true", help="make the clips, score them another time")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status. Errors are one sentence."""
    args = parser().parse_args(argv)
    try:
        return run(args)
    except InputError as error:
        print(f"held_out: {error}", file=sys.stderr)
        return 2


def _same_people(args: argparse.Namespace) -> None:
    """People drive one another, so that clips of other settings are other clips, under the same names."""
    path = args.out / "settings.json"
    real = None if args.real is None else str(args.real.expanduser().absolute())
    now = dict(people=args.people, frames=args.frames, real=real, real_frames=args.real_frames if real else None)
    if path.exists() and (before := json.loads(path.read_text())) != now:
        name = next(k for k in now if before.get(k) != now[k])
        raise InputError(
            f"--out {args.out} was begun with --{name.replace('_', '-')} {before.get(name)}, not {now[name]}: "
            "go on with the same, or give another folder"
        )
    path.write_text(json.dumps(now) + "\n")


def run(args: argparse.Namespace) -> int:
    """Makes what is not there yet, then scores all of it."""
    protocols = args.protocols.split(",")
    if unknown := sorted(set(protocols) - set(PROTOCOLS)):
        raise InputError(f"--protocols {unknown[0]}: expected some of {', '.join(PROTOCOLS)}")
    if args.people < 2 or args.frames < 2 or args.real_frames < 2:
        raise InputError("--people, --frames and --real-frames: expected 2 or more, since people drive one another")
    if args.record and (args.real or args.only_make):
        raise InputError("--record keeps what anyone can measure again: leave --real and --only-make out")
    args.out = args.out.expanduser().absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    _same_people(args)
    compile_cache.enable()
    memory.keep_freed()
    finder = FaceFinder()
    everyone = list(subjects.synthetic(args.out / "subjects", args.people, args.frames, finder))
    methods = Methods(args.out, finder, args.weights, args.adapt)
    weights = args.weights or avatar.DEFAULT_WEIGHTS
    record.stamp(args.out / methods.ours, weights)
    speech = audio.load(DEMO_SPEECH)
    rows = []
    if args.real:
        everyone.append(subjects.real(args.out / "subjects", args.real, args.real_frames, finder))
    for k, subject in enumerate(everyone):
        sound, length = speech, args.frames * _PER_FRAME
        if args.real and subject is everyone[-1]:
            length = args.real_frames * _PER_FRAME
            sound = audio.load(args.real)
        begin = (k * length) % max(len(sound) - length, 1)
        driver = everyone[(k + 1) % len(everyone)]
        todo = jobs(subject, driver, sound[begin : begin + length], args.out)
        todo = [j for j in todo if j.row["protocol"] in protocols]
        methods.make(subject, todo)
        rows += [j.row for j in todo]
        print(f"{k + 1} of {len(everyone)}: {subject.name} is made", flush=True)
    table = args.out / "manifest.csv"
    with open(table, "w", newline="") as f:
        writer = csv.DictWriter(f, manifest.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    if args.only_make:
        return 0
    report = args.out / "report"
    given = ["--manifest", str(table), "--methods", methods.folders(), "--out", str(report)]
    more = ["--size", str(subjects.SIDE), "--every", str(args.every), "--metrics", args.metrics]
    status = command.main([*given, *more])
    if args.record and status == 0:
        scored = json.loads((report / "report.json").read_text())
        how = dict(people=args.people, frames=args.frames, adaptation_steps=args.adapt, seed=subjects.SEED)
        record.record(weights, scored, command=parser().prog, **how)
        print(f"figures are in {weights}")
    return status


if __name__ == "__main__":
    sys.exit(main())
