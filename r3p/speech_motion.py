"""Speech to expression over sound of any length: windows that overlap, cross-faded, lips closed in silence."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from r3p import audio, weights
from r3p.errors import InputError
from r3p.models.audio2motion import AudioToMotion

DEFAULT_WEIGHTS = Path(__file__).parent / "assets" / "audio2motion.npz"
WEIGHTS_KIND = "audio2motion"

# Video frames. A window's ends feel the lack of what lies outside, so the fade is in the middle of the overlap.
WINDOW, OVERLAP, FADE = 320, 64, 16
ROUND = 64  # windows of a short sound come in few lengths, so few programs are compiled
SILENT_S = 0.25
# Silence: 25 dB under the recording's level, which counts as at least -80 dB of full scale.
_BELOW_LEVEL, _LEAST_LEVEL = 1.25, -4.0
_LIPS_AHEAD = 3  # frames before the sound in which the lips may open


def load_default(path: str | Path = DEFAULT_WEIGHTS) -> tuple[AudioToMotion, Any]:
    """Model and variables of a weight file, by default the embedded network.

    Raises:
      InputError: no such file, or not one of these.
    """
    trees, meta = weights.load(path, WEIGHTS_KIND)
    return AudioToMotion(**meta["model"]), trees


@partial(jax.jit, static_argnames="model")
def _predict(
    model: AudioToMotion, variables: Any, mel: jax.Array, pitch: jax.Array, amplitude: jax.Array, noise: jax.Array
) -> jax.Array:
    return jnp.asarray(model.apply(variables, mel, pitch, None, amplitude, noise=noise))


def loudness(wav: np.ndarray, frames: int) -> np.ndarray:
    """[2 frames] `audio.loudness` of a sound of any length, padded with zeros, in pieces."""
    parts = []
    for first in range(0, 2 * frames, 4000):
        count = min(4000, 2 * frames - first)
        parts.append(audio.loudness(audio.mel(audio.fit_length(wav[first * audio.HOP :], count))))
    return np.concatenate(parts)


def silence_gate(loud: np.ndarray, level: float) -> np.ndarray:
    """How much the lips are to be closed, float32 [t] from 0 to 1, for loudness [2t] of a recording of that level.

    1 inside of silences longer than 0.25 s, rising and falling within about three frames; before sound begins again
    the lips are let go, because they move first.
    """
    silent = loud.reshape(-1, 2).max(1) < max(level, _LEAST_LEVEL) - _BELOW_LEVEL
    runs, count = ndimage.label(silent)
    gate = np.zeros(len(silent), np.float32)
    for run in ndimage.find_objects(runs, count):
        start, stop = run[0].start, run[0].stop
        if stop - start > SILENT_S * audio.FPS:
            gate[start : stop if stop == len(silent) else stop - _LIPS_AHEAD] = 1
    return ndimage.gaussian_filter1d(gate, 1.0, mode="nearest", truncate=3)


def _windows(frames: int, stride: int) -> Iterator[tuple[int, int]]:
    """(first frame, length) of each window; they are multiples of `stride` when it divides `ROUND`."""
    if ROUND % stride:
        raise InputError(f"the model's stride is {stride}: expected a divisor of {ROUND}")
    if frames <= WINDOW:
        yield 0, -(-frames // ROUND) * ROUND
        return
    for first in range(0, frames - OVERLAP, WINDOW - OVERLAP):
        yield first, WINDOW


def _features(wav: np.ndarray, first: int, length: int, level: float, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """Normalised mel [2 length, 80] and pitch [2 length] of a window, as those of the whole recording."""
    low = max(0, 2 * first - audio.CONTEXT)
    high = 2 * (first + length) + audio.CONTEXT
    piece = audio.fit_length(wav[low * audio.HOP :], high - low)
    keep = slice(2 * first - low, 2 * (first + length) - low)
    return audio.normalise(audio.mel(piece), level)[keep], audio.pitch(piece, peak)[keep]


def expression_from_speech(
    model: AudioToMotion,
    variables: Any,
    wav: np.ndarray,
    *,
    temperature: float = 0.2,
    mouth_amp: float = 0.4,
    seed: int = 0,
) -> np.ndarray:
    """What the face does while it says `wav`.

    Args:
      model: one that reads 80 mel bands and pitch, such as the embedded default.
      variables: of the model: params and batch_stats.
      wav: [n] float sound at 16 kHz in [-1, 1].
      temperature: of the prior's samples; 0 is the most likely movement.
      mouth_amp: how far the mouth opens; 0.4 is usual, trained on 0.2 to 0.7.
      seed: of the samples; the same sound and seed give the same movement.

    Returns:
      Expression float32 [t, e] at 25 frames a second, t = `audio.video_frames(n)`.

    Raises:
      InputError: no sound, or a temperature or amplitude below 0.
    """
    if wav.ndim != 1 or not len(wav):
        raise InputError(f"sound of shape {wav.shape}: expected [n] samples at {audio.RATE} Hz, one at least")
    if temperature < 0 or mouth_amp < 0:
        raise InputError(f"temperature {temperature}, mouth amplitude {mouth_amp}: expected numbers of 0 or more")
    frames = audio.video_frames(len(wav))
    loud = loudness(wav, frames)
    level, peak = float(np.quantile(loud, 0.95)), float(np.abs(wav).max())
    slots = -(-(frames + WINDOW) // model.stride)
    noise = np.random.default_rng(seed).standard_normal((slots, model.latent), np.float32) * np.float32(temperature)
    total = np.zeros((frames, model.expression), np.float32)
    ramp = np.clip((np.arange(OVERLAP) - (OVERLAP - FADE) / 2 + 0.5) / FADE, 0, 1).astype(np.float32)
    for first, length in _windows(frames, model.stride):
        mel, pitch = _features(wav, first, length, level, peak)
        part = noise[first // model.stride : (first + length) // model.stride]
        amplitude = np.full(1, mouth_amp, np.float32)
        y = np.asarray(_predict(model, variables, mel[None], pitch[None], amplitude, part[None]))[0]
        weight = np.ones(length, np.float32)
        if first:
            weight[:OVERLAP] = ramp
        if first + length < frames:
            weight[-OVERLAP:] = 1 - ramp
        stop = min(first + length, frames)
        total[first:stop] += (y * weight[:, None])[: stop - first]
    return total * (1 - silence_gate(loud, level))[:, None]
