"""Batches for speech-to-expression training: crops of synthetic speech, a pure function of the step."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.phonemes import DEFAULT_AMPLITUDE, scaled_units
from r3p.errors import InputError

AMPLITUDES = (0.2, 0.7)
# Eyelids round the frame of a blink's middle, three before it and four after.
BLINK = np.array([0.1, 0.45, 0.9, 1.0, 0.8, 0.5, 0.25, 0.08], np.float32)
_BLINK_BEFORE = 3


class Speech:
    """`data_pipelines.speech`'s file in memory, one half of it: what is trained on, or what is held out.

    mel [2T, 80], pitch [2T], expression [T, e], phone [T]: the utterances end to end; each begins and ends in silence,
    so that a crop over a seam is like a pause. starts [n + 1] are their first frames.
    """

    def __init__(self, path: str | Path, held_out: bool = False):
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} does not exist: make it with python -m data_pipelines.speech --out {path.parent}")
        with np.load(path, allow_pickle=False) as data:
            lengths, chosen = data["lengths"], data["held_out"] == held_out
            if not chosen.any():
                raise InputError(f"{path} has no utterances with held_out = {held_out}: make more of them")
            frames = np.repeat(chosen, lengths)
            features = np.repeat(frames, 2)
            self.mel = data["mel"][features].astype(np.float32)
            self.pitch = data["pitch"][features]
            self.expression = data["expression"][frames].astype(np.float32)
            self.phone = data["phone"][frames]
        self.starts = np.concatenate([[0], np.cumsum(lengths[chosen])])

    def __len__(self) -> int:
        return len(self.phone)


def vary(rng: np.random.Generator, mel: np.ndarray, pitch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Another throat and microphone for a crop's normalised mel [2t, 80] and pitch [2t].

    The bands are stretched and shifted (formants), tilted by a smooth curve, covered in part, made noisy; the pitch is
    moved or, as in a whisper, left out.
    """
    bands = mel.shape[1]
    warped = (np.arange(bands) - bands / 2) * rng.uniform(0.92, 1.08) + bands / 2 + rng.uniform(-3, 3)
    low = np.clip(np.floor(warped).astype(int), 0, bands - 2)
    part = np.clip(warped - low, 0, 1).astype(np.float32)
    mel = mel[:, low] * (1 - part) + mel[:, low + 1] * part
    mel = mel * rng.uniform(0.85, 1.15) + np.interp(np.arange(bands), np.linspace(0, bands, 6), rng.normal(0, 0.25, 6))
    mel = mel + rng.normal(0, rng.uniform(0, 0.25), mel.shape)
    if rng.random() < 0.4:
        width = int(rng.integers(3, 16))
        first = int(rng.integers(bands - width))
        mel[:, first : first + width] = mel[:, first : first + width].mean(1, keepdims=True)
    pitch = pitch * 2 ** rng.uniform(-0.6, 0.6) * (rng.random() > 0.25)
    return np.clip(mel, -4, 4).astype(np.float32), pitch.astype(np.float32)


def crop(
    speech: Speech, rng: np.random.Generator, size: int, scaled: np.ndarray, lids: list[int]
) -> dict[str, np.ndarray]:
    """`size` frames from anywhere, at a random mouth amplitude, half of them with a blink that the code announces."""
    start = int(rng.integers(len(speech) - size + 1))
    amplitude = np.float32(rng.uniform(*AMPLITUDES))
    expression = speech.expression[start : start + size].copy()
    expression *= 1 + scaled * (amplitude / DEFAULT_AMPLITUDE - 1)
    blink = np.zeros(2 * size, np.int32)
    if rng.random() < 0.5:
        middle = int(rng.integers(size))
        blink[2 * middle] = 1
        for k, value in enumerate(BLINK, middle - _BLINK_BEFORE):
            if 0 <= k < size:
                expression[k, lids] = value
    both = slice(2 * start, 2 * (start + size))
    mel, pitch = vary(rng, speech.mel[both], speech.pitch[both])
    return dict(mel=mel, pitch=pitch, blink=blink, amplitude=amplitude, expression=expression)


def batches(
    path: str | Path,
    batch_size: int,
    size: int,
    seed: int,
    first_step: int,
    names: list[str],
    process: tuple[int, int] = (0, 1),
    held_out: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of one process from `first_step` on: mel [b, 2t, 80], pitch, blink [b, 2t], amplitude [b],
    expression [b, t, e].

    Args:
      path: `data_pipelines.speech`'s file.
      batch_size: crops of a step over all processes.
      size: t, frames of a crop.
      seed: of crops, amplitudes and blinks.
      first_step: where a resumed run goes on.
      names: the expression's unit names.
      process: (index, count) of processes.
      held_out: from the utterances that are held out.
    """
    speech = Speech(path, held_out)
    if len(speech) < size:
        of = "held-out frames" if held_out else "frames"
        raise InputError(f"{path} holds {len(speech)} {of}: expected at least {size}, make more utterances")
    scaled = scaled_units(names)
    lids = [names.index(f"eyeBlink{side}") for side in ("Left", "Right")]
    index, processes = process
    step = first_step
    while True:
        local = batch_size // processes
        places = range(index * local, (index + 1) * local)  # a run of the batch, whatever the number of processes
        crops = [crop(speech, np.random.default_rng((seed, step, k)), size, scaled, lids) for k in places]
        yield {key: np.stack([c[key] for c in crops]) for key in crops[0]}
        step += 1
