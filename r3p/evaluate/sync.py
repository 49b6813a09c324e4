"""LSE-C and LSE-D: SyncNet v2 on mouths and sound, as the evaluation script of Wav2Lip defines them.

The script finds faces with S3FD; here MediaPipe's landmarks say where the face is, which moves the crops a little: a
report says so. Letters: t frames of 25 a second, n clips of five frames, e embedding.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import dct
from scipy.ndimage import median_filter

from r3p import audio
from r3p.evaluate import series
from r3p.evaluate.batching import in_batches
from r3p.models.lipsync import FRAMES, SIDE, STEPS, LipSync

SHIFTS = 15  # frames of lag to both sides
LEAST = 100  # frames: the script drops shorter tracks
_CROP, _SMOOTH, _BORDER = 0.4, 13, 110  # of the box's half, frames of the median, grey beyond the picture
_WINDOW, _HOP, _BINS, _FILTERS = 400, 160, 512, 26  # samples at 16 kHz, of the cepstra


def _filters() -> np.ndarray:
    """Triangles on the mel scale [26, 257]."""
    top = 2595 * np.log10(1 + audio.RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    bins = np.floor((_BINS + 1) * edges / audio.RATE)
    k = np.arange(_BINS // 2 + 1)
    out = np.zeros((_FILTERS, len(k)))
    for j, (low, middle, high) in enumerate(zip(bins, bins[1:], bins[2:], strict=False)):
        rise, fall = (k >= low) & (k < middle), (k >= middle) & (k < high)
        out[j, rise] = (k[rise] - low) / (middle - low)
        out[j, fall] = (high - k[fall]) / (high - middle)
    return out


def cepstra(wav: np.ndarray, count: int = 13, lifter: int = 22) -> np.ndarray:
    """Mel cepstra [steps of 10 ms, 13] of sound at 16 kHz in [-1, 1], the first the logarithm of the energy.

    Pre-emphasis 0.97, 25 ms without a window, 26 filters, liftered: what SyncNet was trained on.
    """
    x = np.round(np.clip(wav * 32768, -32768, 32767))  # it was trained on 16-bit numbers
    x = np.concatenate([x[:1], x[1:] - 0.97 * x[:-1]])
    steps = 1 + max(0, -(-(len(x) - _WINDOW) // _HOP))
    x = np.concatenate([x, np.zeros(max(0, (steps - 1) * _HOP + _WINDOW - len(x)))])
    frames = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[::_HOP][:steps]
    power = np.abs(np.fft.rfft(frames, _BINS)) ** 2 / _BINS
    tiny = np.finfo(float).eps
    energy = power.sum(1)
    bands = np.log(np.maximum(power @ _filters().T, tiny))
    out = dct(bands, type=2, axis=1, norm="ortho")[:, :count]
    out *= 1 + lifter / 2 * np.sin(np.pi * np.arange(count) / lifter)
    out[:, 0] = np.log(np.maximum(energy, tiny))
    return out


def boxes(points: np.ndarray) -> np.ndarray:
    """[t, 3]: middle and half of the longer side of the face's box, steadied; frames without a face are bridged."""
    good = series.known(points)
    skin = points[good][:, :468]
    low, high = skin.min(1), skin.max(1)
    found = np.concatenate([(low + high) / 2, (high - low).max(1, keepdims=True) / 2], 1)
    at = np.flatnonzero(good)
    filled = np.stack([np.interp(np.arange(len(points)), at, column) for column in found.T], 1)
    return np.asarray(median_filter(filled, (_SMOOTH, 1), mode="constant"))


def face_crop(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """[224, 224, 3] BGR of an RGB frame; box (x, y, half side)."""
    x, y, half = box
    pad = int(half * (1 + 2 * _CROP))
    wide = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), constant_values=_BORDER)
    top, left = y + pad, x + pad
    rows = slice(int(top - half), int(top + half * (1 + 2 * _CROP)))
    columns = slice(int(left - half * (1 + _CROP)), int(left + half * (1 + _CROP)))
    return np.ascontiguousarray(cv2.resize(wide[rows, columns], (SIDE, SIDE))[..., ::-1])


def _windows(crops: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    recent: list[np.ndarray] = []
    for crop in crops:
        recent = [*recent[1 - FRAMES :], crop]
        if len(recent) == FRAMES:
            yield np.stack(recent)


def distances(lips: np.ndarray, sound: np.ndarray, shifts: int = SHIFTS) -> np.ndarray:
    """Mean distance [2 shifts + 1] of embeddings [n, e] for every lag of the sound, which zeros go on from."""
    padded = np.pad(sound, ((shifts, shifts), (0, 0)))
    # PyTorch's distance has this inside.
    return np.array([
        np.linalg.norm(lips - padded[k : k + len(lips)] + 1e-6, axis=1).mean() for k in range(2 * shifts + 1)
    ])  # fmt: skip


def scores(mean: np.ndarray) -> dict[str, float]:
    """LSE-D is the least distance, LSE-C what the median has above it; the lag is that of the sound, frames."""
    best = int(mean.argmin())
    median = float(np.sort(mean)[(len(mean) - 1) // 2])
    return {"lse_d": float(mean[best]), "lse_c": median - float(mean[best]), "lse_lag": float(len(mean) // 2 - best)}


class Judge:
    """SyncNet v2 with weights of `r3p convert`."""

    def __init__(self, model: LipSync, variables: Any) -> None:
        def run(part: str) -> Callable[[jax.Array], Any]:
            inputs = {"lips": lambda m, x: m.lips(x.astype(jnp.float32)), "sound": lambda m, x: m.sound(x)}
            return partial(jax.jit(lambda v, x: model.apply(v, x, method=inputs[part])), variables)

        self._lips, self._sound = run("lips"), run("sound")

    def __call__(self, frames: Iterable[np.ndarray], points: np.ndarray, wav: np.ndarray) -> dict[str, float]:
        """Of a clip's frames u8 [h, w, 3] with landmarks [t, 478, 2] and sound at 16 kHz; few frames are in memory."""
        heard = cepstra(wav)
        count = min(len(points), len(wav) // (audio.RATE // 25)) - FRAMES
        count = min(count, (len(heard) - STEPS) // 4 + 1)
        if count < 1:
            return dict.fromkeys(("lse_c", "lse_d", "lse_lag"), float("nan"))
        where = boxes(points)
        seen: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        for k, window in enumerate(_windows(face_crop(f, b) for f, b in zip(frames, where, strict=False))):
            if k == count:
                break
            waiting.append(window)
            if len(waiting) == 8:
                seen.append(in_batches(self._lips, np.stack(waiting)))
                waiting.clear()
        if waiting:
            seen.append(in_batches(self._lips, np.stack(waiting)))
        sound = np.stack([heard[4 * k : 4 * k + STEPS].T[..., None] for k in range(count)]).astype(np.float32)
        return scores(distances(np.concatenate(seen), in_batches(self._sound, sound)))
