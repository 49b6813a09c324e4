"""Synthetic people who speak, for SyncNet and audio-to-motion: `python -m data_pipelines.speech_people --out DIR`.

The sentences and mouth shapes of `data_pipelines.speech`, each said by one of several people of their own identity,
mouth amplitude and blinks; what is written is the format of `data_pipelines.utterances`. The sound's features are mel
bands, or HuBERT's with `--hubert FOLDER`, a checkpoint as `transformers` saves it; nothing that reads them cares.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.phonemes import DEFAULT_AMPLITUDE, mouth_track, scaled_units
from data_pipelines.speech import VOICES, record
from data_pipelines.speech_crops import BLINK
from data_pipelines.utterances import write_index, write_utterance
from r3p import audio, face, mesh_motion
from r3p.errors import InputError

AMPLITUDES = (0.25, 0.6)
BLINK_EVERY = (40, 120)  # frames
IDENTITY_SPREAD = 0.8  # of the built-in head's standard deviations
Job = tuple[int, int, bool, int]
Features = Callable[[np.ndarray], np.ndarray]


def person_of(job: Job) -> str:
    """Who says (seed, index, held out, people): voices and people both go round, so each person keeps a voice."""
    _, index, held_out, people = job
    return f"{'held_out' if held_out else 'person'}{index % people}"


def blinks(rng: np.random.Generator, frames: int) -> np.ndarray:
    """[frames] how far the lids are shut, with a blink every two to five seconds."""
    out = np.zeros(frames + len(BLINK), np.float32)
    at = int(rng.integers(BLINK_EVERY[1]))
    while at < frames:
        out[at : at + len(BLINK)] = BLINK
        at += int(rng.integers(*BLINK_EVERY))
    return out[:frames]


def speak_and_move(job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """The sound, fitted to whole frames, and the item of `data_pipelines.utterances` but for the sound's features."""
    seed, index, held_out, people = job
    head = face.load_face_model()
    names = list(head.expression_names)
    said = record((seed, index, held_out))
    _, pitch = audio.features(said.sound)
    frames = len(pitch) // 2
    expression, _ = mouth_track(said.phones, said.ends, frames, names)
    who = np.random.default_rng((seed, 2 + int(held_out), index % people))
    identity = IDENTITY_SPREAD * who.normal(size=len(head.identity)).astype(np.float32)
    expression *= 1 + scaled_units(names) * (who.uniform(*AMPLITUDES) / DEFAULT_AMPLITUDE - 1)
    lids = [names.index(f"eyeBlink{side}") for side in ("Left", "Right")]
    expression[:, lids] = blinks(np.random.default_rng((seed, 4 + int(held_out), index)), frames)[:, None]
    return audio.fit_length(said.sound, 2 * frames), dict(
        pitch=pitch,
        identity=identity,
        expression=expression,
        blink=mesh_motion.blink_code(head, identity, expression),
        amplitude=mesh_motion.mouth_amplitude(head, identity, expression),
    )


def mel_features(sound: np.ndarray) -> np.ndarray:
    """[2T, 80], what the small network reads."""
    return audio.normalise(audio.mel(sound))


def hubert_features(folder: str) -> Features:
    """Features [2T, c] of a HuBERT checkpoint."""
    from r3p import hubert_features as hubert

    model, variables = hubert.load(folder)
    return lambda sound: hubert.features(model, variables, sound)


def spoken(jobs: list[Job], processes: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """`speak_and_move` of all jobs in their order."""
    if processes == 1:
        yield from map(speak_and_move, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(speak_and_move, jobs, chunksize=4)


def make(folder: Path, count: int, people: int, seed: int, features: Features = mel_features, jobs: int = 1) -> float:
    """Writes `count` utterances, every sixth of them held out: other people, another voice. Returns their minutes.

    Raises:
      InputError: fewer utterances or people than both halves need.
    """
    if count < 12 or people < len(VOICES):
        raise InputError(f"{count} utterances of {people} people: expected at least 12 and {len(VOICES)}")
    people -= people % len(VOICES)
    held = count // 6
    work = [(seed, k, False, people) for k in range(count - held)] + [(seed, k, True, 2) for k in range(held)]
    folder.mkdir(parents=True, exist_ok=True)
    names, frames = [], []
    for job, (sound, item) in zip(work, spoken(work, jobs), strict=True):
        names.append(f"{'held_out' if job[2] else 'train'}{job[1]:06d}")
        frames.append(write_utterance(folder, names[-1], {**item, "audio": features(sound)}))
    write_index(folder, names, frames, [person_of(job) for job in work], [job[2] for job in work])
    return sum(frames) / audio.FPS / 60


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.speech_people", description="Let synthetic people say made-up sentences."
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--utterances", type=int, default=240)
    parser.add_argument("--people", type=int, default=12, help="rounded down to a multiple of the voices")
    parser.add_argument("--hubert", help="folder of a HuBERT checkpoint; mel bands when absent")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args(argv)
    try:
        features = hubert_features(args.hubert) if args.hubert else mel_features
        minutes = make(args.out.expanduser(), args.utterances, args.people, args.seed, features, args.jobs)
    except InputError as error:
        print(f"r3p speech_people: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {args.utterances} utterances, {minutes:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
