"""Synthetic speech with known phones: `python -m data_pipelines.speech --out DIR --utterances N --seed S`.

flite (a training-time extra: `apt-get install flite`) speaks made-up sentences and tells each phone's time; phones give
mouth shapes (`data_pipelines.phonemes`); the sound is bent in pitch, speed, room, noise and colour. The result is one
file, n utterances of T_i video frames (25 Hz) with twice as many feature frames:

    DIR/speech.npz   mel f16 [sum 2T, 80] normalised, pitch f32 [sum 2T] Hz, expression f16 [sum T, 64] at the default
                     amplitude, phone u8 [sum T] places in PHONE_NAMES, lengths i32 [n] (T), voices [n], texts [n],
                     held_out bool [n]: a voice and texts that training must not see
"""

import argparse
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import signal

from data_pipelines.phonemes import mouth_track
from data_pipelines.sentences import sentence
from r3p import audio
from r3p.errors import InputError

VOICES = ("slt", "rms", "kal16")
HELD_OUT_VOICE = "awb"
HEAD_FILE = Path(audio.__file__).parent / "assets" / "head.npz"


def expression_names() -> list[str]:
    """The 64 units of the built-in head, in their order."""
    with np.load(HEAD_FILE, allow_pickle=False) as data:
        return [str(n) for n in data["expression_names"]]


def speak(
    text: str, voice: str, stretch: float = 1.0, pitch_hz: float | None = None
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """flite's voice: `(sound [n] at 16 kHz, phones, the second at which each ends)`.

    Raises:
      InputError: flite is missing, or it does not say the text.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}"]
        if pitch_hz is not None:
            command += ["--setf", f"int_f0_target_mean={pitch_hz:.1f}"]
        try:
            done = subprocess.run(
                [*command, "-psdur", "-t", text, "-o", str(path)], capture_output=True, text=True, check=True
            )
        except FileNotFoundError:
            raise InputError(
                "flite is not installed: expected the Debian package flite (apt-get install flite)"
            ) from None
        except subprocess.CalledProcessError as error:
            raise InputError(f"flite cannot say {text!r}: {error.stderr.strip()}") from None
        with wave.open(str(path)) as file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (audio.RATE, 1, 2):
                raise InputError(f"voice {voice} does not speak 16-bit mono at {audio.RATE} Hz: choose another")
            wav = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    pairs = [item.rpartition(":") for item in done.stdout.split()]
    return wav, [p[0] for p in pairs], np.array([float(p[2]) for p in pairs])


def colour(rng: np.random.Generator, wav: np.ndarray) -> np.ndarray:
    """The same sound in another room, through another microphone: echo, equaliser, band limit, noise, level."""
    size = len(wav)
    if rng.random() < 0.5:
        tail = round(audio.RATE * rng.uniform(0.05, 0.3))
        echo = rng.normal(size=tail) * np.exp(-6.9 * np.arange(tail) / tail) * rng.uniform(0.005, 0.05)
        echo[0] = 1.0
        wav = signal.fftconvolve(wav, echo)[:size]
    spectrum = np.fft.rfft(wav)
    hz = np.linspace(0, audio.RATE / 2, len(spectrum))
    decibels = np.interp(hz, np.geomspace(60, 8000, 7), rng.normal(0, 4, 7))
    if rng.random() < 0.3:
        low, high = rng.uniform(40, 300), rng.uniform(3200, 7500)
        decibels -= 24 * np.maximum(0, np.log2(low / np.maximum(hz, 1))) + 48 * np.maximum(
            0, np.log2(np.maximum(hz, 1) / high)
        )
    wav = np.fft.irfft(spectrum * 10 ** (np.maximum(decibels, -80) / 20), size)
    noise = np.fft.rfft(rng.normal(size=size)) / (1 + hz / rng.uniform(100, 8000))
    hiss = np.fft.irfft(noise, size)
    loud = np.sqrt(np.mean(wav**2)) / np.sqrt(np.mean(hiss**2) + 1e-12)
    wav = wav + hiss * loud * 10 ** (-rng.uniform(14, 55) / 20)
    peak = float(np.abs(wav).max()) or 1.0
    return (wav / peak * 10 ** (-rng.uniform(0, 24) / 20)).astype(np.float32)


class Recording(NamedTuple):
    """A sentence spoken: sound [n] at 16 kHz, its phones and the second at which each ends."""

    sound: np.ndarray
    phones: list[str]
    ends: np.ndarray
    voice: str
    text: str


def record(job: tuple[int, int, bool]) -> Recording:
    """What (seed, index, held out) says, and how: a pure function of them."""
    seed, index, held_out = job
    rng = np.random.default_rng((seed, int(held_out), index))
    text = sentence(rng)
    voice = HELD_OUT_VOICE if held_out else VOICES[index % len(VOICES)]
    base = 170 if voice == "slt" else 105
    wav, phones, ends = speak(text, voice, rng.uniform(0.8, 1.25), base * rng.uniform(0.8, 1.3))
    if not held_out:
        # higher and faster, or lower and slower: as another throat would
        rate = 2 ** rng.uniform(-0.35, 0.35)
        wav, ends = signal.resample(wav, round(len(wav) / rate)).astype(np.float32), ends / rate
    before = rng.uniform(0, 0.5)
    wav = np.pad(wav, (round(before * audio.RATE), round(rng.uniform(0, 0.5) * audio.RATE)))
    phones, ends = ["pau", *phones], np.concatenate([[before], ends + before])
    if not held_out or index % 2:
        wav = colour(rng, wav)
    return Recording(wav, phones, ends, voice, text)


def utterance(job: tuple[int, int, bool]) -> dict[str, Any]:
    """One utterance of (seed, index, held out): a pure function of them."""
    said = record(job)
    mel, pitch = audio.features(said.sound)
    expression, phone = mouth_track(said.phones, said.ends, len(mel) // 2, expression_names())
    return dict(
        mel=mel.astype(np.float16),
        pitch=pitch,
        expression=expression.astype(np.float16),
        phone=phone.astype(np.uint8),
        length=len(phone),
        voice=said.voice,
        text=said.text,
        held_out=job[2],
    )


def utterances(count: int, seed: int, jobs: int) -> Iterator[dict[str, Any]]:
    """`count` utterances, every twelfth of them held out; held-out texts that training has too are left out."""
    held = max(1, count // 12)
    work = [(seed, k, False) for k in range(count - held)] + [(seed, k, True) for k in range(held)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        seen: set[str] = set()
        for item in pool.map(utterance, work, chunksize=4):
            if item["held_out"] and item["text"] in seen:
                continue
            seen.add(item["text"])
            yield item


def write(folder: Path, items: list[dict[str, Any]]) -> Path:
    """The file described above, from `utterance`s."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {k: np.concatenate([u[k] for u in items]) for k in ("mel", "pitch", "expression", "phone")}
    columns = {
        k + ending: np.array([u[k] for u in items]) for k, ending in (("voice", "s"), ("text", "s"), ("held_out", ""))
    }
    path = folder / "speech.npz"
    np.savez(path, lengths=np.array([u["length"] for u in items], np.int32), **arrays, **columns)  # type: ignore[arg-type]
    return path


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.speech", description="Speak sentences with known phones."
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for speech.npz")
    parser.add_argument("--utterances", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args(argv)
    try:
        if args.utterances < 12:
            raise InputError(f"--utterances {args.utterances}: expected at least 12")
        items = list(utterances(args.utterances, args.seed, args.jobs))
    except InputError as error:
        print(f"r3p speech: {error}", file=sys.stderr)
        return 2
    path = write(args.out, items)
    print(f"{path}: {len(items)} utterances, {sum(u['length'] for u in items) / audio.FPS / 60:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
