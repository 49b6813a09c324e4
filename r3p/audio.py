"""Sound in: decoding, and the features that the audio-to-motion networks read. NumPy only.

Sound is float32 mono at 16 kHz in [-1, 1]. Features come at 50 Hz, two frames a video frame of 25 Hz; feature frame i
is centred on sample 320 i + 256. n samples, t feature frames (2 a video frame).
"""

import functools
import itertools
import warnings
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from scipy import ndimage

from r3p.errors import InputError

RATE = 16000
HOP = 320  # 50 Hz
FPS = 25
WINDOW = 512
BANDS = 80
MEL_LOW, MEL_HIGH = 80.0, 7600.0
PITCH_FLOOR, PITCH_CEILING = 80.0, 750.0
SHORTEST_S = 0.2
_CLIPPED = 0.999
_SILENT = 1e-4  # -80 dB of full scale


def stream(path: str | Path, chunk_s: float = 20.0, begin: float | None = None) -> Iterator[np.ndarray]:
    """The sound of any media file in pieces of `chunk_s` seconds (the last one shorter): hours need no memory.

    begin: seconds on the file's clock at which to begin, with silence before sound that sets in later; None: with the
    sound's first sample.

    Raises:
      InputError: no such file, not a media file, no sound in it, or damaged sound.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}: expected a sound or video file")
    size = round(chunk_s * RATE)
    pending: list[np.ndarray] = []
    count = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path} has no sound: expected a file with an audio stream")
            for piece in _pieces(container, begin):
                pending.append(piece)
                count += len(piece)
                while count >= size:
                    joined = np.concatenate(pending)
                    yield _sane(joined[:size], path)
                    pending, count = [joined[size:]], count - size
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(f"{path} cannot be read as sound ({error}): expected wav, mp3, m4a, mp4 or the like") from None
    last = np.concatenate(pending) if pending else np.zeros(0, np.float32)
    if len(last):
        yield _sane(last, path)


def _pieces(container: Any, begin: float | None) -> Iterator[np.ndarray]:
    """Decoded mono sound at 16 kHz, from `begin` on."""
    # Channels are averaged here: the resampler's own mix to mono would be 3 dB louder.
    resampler = av.AudioResampler(format="fltp", rate=RATE)
    if begin:
        container.seek(int(begin * 1e6))
    away = 0 if begin is None else None  # samples to leave out; less than 0: to put in
    for frame in itertools.chain(container.decode(container.streams.audio[0]), [None]):
        if away is None:
            away = round((begin - frame.time) * RATE) if begin is not None and frame and frame.time is not None else 0
        for resampled in resampler.resample(frame):
            piece = np.pad(resampled.to_ndarray().mean(0), (max(-away, 0), 0))
            left = min(max(away, 0), len(piece))
            away = max(away, 0) - left
            yield piece[left:]


def _sane(wav: np.ndarray, path: Path) -> np.ndarray:
    if not np.isfinite(wav).all():
        raise InputError(f"{path} holds samples that are not finite: export it again")
    return wav.astype(np.float32)


def load(path: str | Path, begin: float | None = None, seconds: float = float("inf")) -> np.ndarray:
    """The whole sound of a media file, [n] float32, mono (the mean of the channels), 16 kHz.

    begin, seconds: only so much of it, see `stream`.

    Warns when the sound is clipped or silent; both are usable.

    Raises:
      InputError: as `stream`, and when there is less than 0.2 s of sound.
    """
    pieces, held = [], 0
    for piece in stream(path, begin=begin):
        pieces.append(piece)
        held += len(piece)
        if held >= seconds * RATE:
            break
    wav = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    wav = wav if held < seconds * RATE else wav[: round(seconds * RATE)]
    if len(wav) < SHORTEST_S * RATE:
        raise InputError(f"{path} holds {len(wav) / RATE:.2f} s of sound: expected at least {SHORTEST_S} s")
    peak = float(np.abs(wav).max())
    if peak < _SILENT:
        warnings.warn(f"{path} is silent: the mouth will stay closed", stacklevel=2)
    clipped = float(np.mean(np.abs(wav) >= _CLIPPED))
    if clipped > 1e-3:
        warnings.warn(f"{path} is clipped in {clipped:.1%} of its samples: record it quieter", stacklevel=2)
    return wav


def save_wav(path: str | Path, wav: np.ndarray) -> None:
    """Writes [n] float in [-1, 1] as 16-bit mono at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(np.clip(wav, -1, 1) * 32767).astype("<i2").tobytes())


def video_frames(samples: int, fps: float = FPS) -> int:
    """How many video frames last as long as `samples` of sound, the last one begun rather than cut."""
    return int(np.ceil(samples * fps / RATE - 1e-9))


def fit_length(wav: np.ndarray, feature_frames: int) -> np.ndarray:
    """Cut or zero-padded so that `mel` and `pitch` give exactly `feature_frames` frames."""
    size = (feature_frames - 1) * HOP + WINDOW
    return wav[:size] if len(wav) >= size else np.pad(wav, (0, size - len(wav)))


@functools.lru_cache(maxsize=1)
def mel_matrix() -> np.ndarray:
    """[257, 80] triangular filters of unit area on Slaney's mel scale (linear below 1 kHz), 80-7600 Hz."""
    step = np.log(6.4) / 27.0

    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + np.log(hz / 1000) / step

    mels = np.linspace(to_mel(MEL_LOW), to_mel(MEL_HIGH), BANDS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    bins = np.arange(WINDOW // 2 + 1)[:, None] * (RATE / WINDOW)
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    rise, fall = (bins - low) / (mid - low), (high - bins) / (high - mid)
    return np.maximum(0, np.minimum(rise, fall)) * (2 / (high - low))


def _frames(wav: np.ndarray, size: int) -> np.ndarray:
    """Views [t, size] of the signal at the hop."""
    return np.lib.stride_tricks.sliding_window_view(wav, size)[::HOP]


def _hann(size: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def mel(wav: np.ndarray) -> np.ndarray:
    """[t, 80] log10 mel magnitudes, floor 1e-6, t = 1 + (n - 512) // 320: official settings (512 Hann, not centred)."""
    if len(wav) < WINDOW:
        return np.zeros((0, BANDS), np.float32)
    frames, window = _frames(wav, WINDOW), _hann(WINDOW)
    out = np.empty((len(frames), BANDS), np.float32)
    for i in range(0, len(frames), 2000):
        magnitude = np.abs(np.fft.rfft(frames[i : i + 2000] * window))
        out[i : i + 2000] = np.log10(np.maximum(magnitude @ mel_matrix(), 1e-6))
    return out


def _candidates(frames: np.ndarray, peak: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pitch candidates [t, count + 1] in Hz (first: unvoiced, 0) and their strengths (Boersma 1993, section 3)."""
    size = frames.shape[1]
    window = _hann(size)
    fft = 1 << int(np.ceil(np.log2(2 * size)))
    frames = frames - frames.mean(1, keepdims=True)
    loud = np.abs(frames).max(1) / max(peak, 1e-9)
    of_window = np.fft.irfft(np.abs(np.fft.rfft(window, fft)) ** 2)[: size // 2]
    r = np.fft.irfft(np.abs(np.fft.rfft(frames * window, fft)) ** 2)[:, : size // 2]
    r = (r / np.maximum(r[:, :1], 1e-12)) / (of_window / of_window[0])
    first, last = int(RATE / PITCH_CEILING), min(int(np.ceil(RATE / PITCH_FLOOR)), size // 2 - 2)
    left, mid, right = (r[:, first + d : last + d] for d in (-1, 0, 1))
    curve = np.where((mid > left) & (mid >= right), left - 2 * mid + right, 1)
    offset = np.where(curve < -1e-9, 0.5 * (left - right) / np.minimum(curve, -1e-9), 0)
    lag = np.arange(first, last) + offset
    height = np.where(curve < 0, mid - 0.25 * (left - right) * offset, -np.inf)
    strength = np.where(height > 0.3, np.minimum(height, 1) - 0.01 * np.log2(PITCH_FLOOR * lag / RATE), -np.inf)
    best = np.argsort(-strength, 1)[:, :count]
    hz = np.where(np.isfinite(np.take_along_axis(strength, best, 1)), RATE / np.take_along_axis(lag, best, 1), 0)
    silence, voicing = 0.03, 0.6
    unvoiced = voicing + np.maximum(0, 2 - (loud / silence) / (1 + voicing))
    return np.column_stack([np.zeros(len(hz)), hz]), np.column_stack([unvoiced, np.take_along_axis(strength, best, 1)])


def pitch(wav: np.ndarray, peak: float | None = None) -> np.ndarray:
    """[t] fundamental frequency in Hz, 0 = unvoiced, as many frames as `mel`: autocorrelation, 80 to 750 Hz.

    Boersma (1993): the normalised autocorrelation of windows of three periods of 80 Hz, divided by the window's;
    voicing threshold 0.6, silence 0.03; the path of least cost through the candidates (octave jump 0.35,
    voiced/unvoiced 0.14, per 10 ms).

    Args:
      wav: the sound.
      peak: the loudest sample of the whole recording, when `wav` is a piece of it.
    """
    size = int(3 * RATE / PITCH_FLOOR)
    count = 0 if len(wav) < WINDOW else 1 + (len(wav) - WINDOW) // HOP
    if count == 0:
        return np.zeros(0, np.float32)
    side = (size - WINDOW) // 2
    frames = _frames(np.pad(wav, (side, size)), size)[:count]
    peak = float(np.abs(wav).max()) if peak is None else peak
    parts = [_candidates(frames[i : i + 1000], peak, 6) for i in range(0, count, 1000)]
    hz, strength = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    octaves = np.log2(np.maximum(hz, 1e-3))
    voiced = hz > 0
    scale = 0.01 * RATE / HOP  # costs are per 10 ms
    total, back = strength[0], np.zeros(hz.shape, np.int8)
    for i in range(1, count):
        both = voiced[i - 1][:, None] & voiced[i]
        jump = np.where(both, 0.35 * np.abs(octaves[i - 1][:, None] - octaves[i]), 0)
        jump += np.where(voiced[i - 1][:, None] ^ voiced[i], 0.14, 0)
        score = total[:, None] - scale * jump
        back[i] = score.argmax(0)
        total = score.max(0) + strength[i]
    path = np.empty(count, np.int64)
    path[-1] = total.argmax()
    for i in range(count - 1, 0, -1):
        path[i - 1] = back[i, path[i]]
    return hz[np.arange(count), path].astype(np.float32)


def _moving_sum(values: np.ndarray, reach: int) -> np.ndarray:
    """Sums over [i - reach, i + reach], cut at the ends, along axis 0."""
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, 0, dtype=np.float64)])
    index = np.arange(len(values))
    return total[np.minimum(index + reach + 1, len(values))] - total[np.maximum(index - reach, 0)]


def loudness(log_mel: np.ndarray) -> np.ndarray:
    """[t] log10 of the frame's root mean square over the mel bands."""
    return 0.5 * np.log10(np.mean(10.0 ** (2 * log_mel.astype(np.float64)), 1))


# log10 band level of speech over its loudness: a parabola over the bands, fitted to four synthetic voices
_USUAL_SPECTRUM = (2.1, -4.2, -0.2)
CONTEXT = 200  # feature frames on either side that `normalise` looks at


def normalise(log_mel: np.ndarray, level: float | None = None) -> np.ndarray:
    """[t, 80] -> [t, 80] in [-4, 4]: without the colour and the level of voice, room and microphone.

    Every band loses its mean over the speech within 4 s on either side, so that a piece of a long recording that
    carries `CONTEXT` more frames at both ends gives what the whole gives. Frames count as speech while they are
    within 25 dB of the local level, which is never taken more than 20 dB under `level`.

    Args:
      log_mel: from `mel`.
      level: the recording's level, the 95th percentile of `loudness`; taken from `log_mel` when absent.
    """
    if not len(log_mel):
        return log_mel.astype(np.float32)
    power = loudness(log_mel)
    level = float(np.quantile(power, 0.95)) if level is None else level
    local = ndimage.percentile_filter(power, 95, size=2 * CONTEXT + 1, mode="nearest")
    local = np.maximum(np.maximum(local, level - 1.0), -4.0)
    weight = 1 / (1 + np.exp(-np.clip((power - local + 1.25) / 0.1, -50, 50)))[:, None]
    # where nothing speaks, what an average voice of that level would have; it counts as 0.1 s
    usual = local[:, None] + np.polyval(_USUAL_SPECTRUM, np.arange(BANDS) / (BANDS - 1))
    mean = (_moving_sum(weight * log_mel, CONTEXT) + 5 * usual) / (_moving_sum(weight, CONTEXT) + 5)
    return np.clip((log_mel - mean) / 0.5, -4, 4).astype(np.float32)


def features(wav: np.ndarray, multiple: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """What the embedded audio-to-motion network reads: `(normalised mel [t, 80], pitch [t])`.

    t is twice the number of video frames, these rounded up to a multiple of `multiple`.
    """
    frames = -(-max(video_frames(len(wav)), 1) // multiple) * multiple
    padded = fit_length(wav, 2 * frames)
    return normalise(mel(padded)), pitch(padded)


def pad_frames(array: np.ndarray, multiple: int = 8) -> np.ndarray:
    """[t, ..] zero-padded at the end to a multiple of `multiple` frames, as the official inference does."""
    return np.pad(array, [(0, -len(array) % multiple)] + [(0, 0)] * (array.ndim - 1))


def envelope(wav: np.ndarray, frames: int, fps: float = FPS) -> np.ndarray:
    """[frames] root mean square of the sound while each video frame is shown, smoothed with a sigma of one frame."""
    edges = np.minimum(np.round(np.arange(frames + 1) * RATE / fps).astype(int), len(wav))
    total = np.concatenate([[0.0], np.cumsum(wav.astype(np.float64) ** 2)])
    mean = (total[edges[1:]] - total[edges[:-1]]) / np.maximum(np.diff(edges), 1)
    return ndimage.gaussian_filter1d(np.sqrt(np.maximum(mean, 0)), 1.0)
