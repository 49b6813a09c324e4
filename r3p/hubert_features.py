"""Sound of any length to HuBERT features at 50 Hz, piece by piece as Real3D-Portrait's extractor does it.

The sound is brought to zero mean and unit variance over its whole length, then cut every 1000 frames (20 s). A piece
reaches 80 samples into the next one, so that the frames of all pieces, side by side, are as many as those of the whole;
the transformer sees no further than its piece. Memory does not grow with the length: files are decoded twice, once
for mean and variance, once for the features, and never held.

Sound comes as `[n]` float at 16 kHz, or as the path of any media file. The mean of a file's channels is taken (the
original: the first channel). n samples, t frames, c channels.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from r3p import audio, convert
from r3p.checkpoint_files import read_arrays
from r3p.errors import InputError
from r3p.models.hubert import Hubert, from_config
from r3p.names.hubert import RULES

Sound = np.ndarray | jax.Array | str | Path

FRAMES = 1000  # a piece, 20 s
_BLOCK = FRAMES * audio.HOP
_HALVINGS = 5


class Statistics(NamedTuple):
    """Length of a sound in samples, its mean and its variance."""

    samples: int
    mean: float
    var: float


def _blocks(sound: Sound) -> Iterator[np.ndarray]:
    if isinstance(sound, str | Path):
        yield from audio.stream(sound)
        return
    sound = np.asarray(sound)
    if sound.ndim != 1 or not np.issubdtype(sound.dtype, np.floating):
        raise InputError(
            f"the sound is {sound.dtype}{list(sound.shape)}: expected floats [n] in [-1, 1], one channel at "
            f"{audio.RATE} Hz; average the channels and divide integers by their largest value"
        )
    for first in range(0, len(sound), _BLOCK):
        block = sound[first : first + _BLOCK]
        if not np.isfinite(block).all():
            raise InputError(f"the sound is not finite within samples {first} to {first + len(block)}: clean it")
        yield block


def statistics(sound: Sound) -> Statistics:
    """Mean and variance of the whole sound, from one pass over it.

    Raises:
      InputError: as `r3p.audio.stream` for files; for arrays that are not finite floats [n].
    """
    count, mean, squares = 0, 0.0, 0.0
    for block in _blocks(sound):
        # Chan et al. 1983: sums about the means of the parts, free of cancellation.
        size, of_block = len(block), float(np.mean(block, dtype=np.float64))
        step, total = of_block - mean, count + size
        squares += float(np.sum(np.square(block - of_block), dtype=np.float64)) + step**2 * count * size / total
        mean += step * size / total
        count = total
    return Statistics(count, mean, squares / max(count, 1))


def _known(model: Hubert, sound: Sound, known: Statistics | None) -> Statistics:
    known = statistics(sound) if known is None else known
    if known.samples < model.receptive_field:
        raise InputError(
            f"the sound has {known.samples} samples: HuBERT expects at least {model.receptive_field} "
            f"({1000 * model.receptive_field / audio.RATE:.0f} ms at {audio.RATE} Hz), record more"
        )
    return known


def pieces(model: Hubert, sound: Sound, known: Statistics | None = None, frames: int = FRAMES) -> Iterator[np.ndarray]:
    """The normalised sound, float32, in pieces of `frames` frames for `model`; the last one is shorter.

    Args:
      model: tells stride and receptive field.
      sound: see the module.
      known: from `statistics`, when that pass was already made.
      frames: of a piece; the original's is 1000.

    Raises:
      InputError: as `statistics`; less sound than one frame needs; fewer than one frame a piece.
    """
    if frames < 1:
        raise InputError(f"pieces of {frames} frames: expected at least 1")
    known = _known(model, sound, known)
    step = frames * model.stride
    size = step + model.receptive_field - model.stride
    scale = (known.var + 1e-7) ** -0.5
    pending = np.zeros(0, np.float32)
    for block in _blocks(sound):
        pending = np.concatenate([pending, ((block - known.mean) * scale).astype(np.float32)])
        while len(pending) >= size:
            yield pending[:size]
            pending = pending[step:]
    if len(pending) >= model.receptive_field:
        yield pending


@functools.partial(jax.jit, static_argnums=0)
def _run(model: Hubert, variables: Mapping[str, Any], wave: jax.Array, samples: jax.Array) -> jax.Array:
    out: Any = model.apply(variables, wave, samples)
    return out


def extract(
    model: Hubert,
    variables: Mapping[str, Any],
    sound: Sound,
    known: Statistics | None = None,
    frames: int = FRAMES,
) -> Iterator[np.ndarray]:
    """Features of `sound`, one piece after the other: [t, c] float32 each, t at most `frames`.

    A last piece is padded to `frames`, or to a half, quarter .. of it, and the padding masked: the same numbers from
    a handful of compiled programs instead of one for every length.

    Raises:
      InputError: as `pieces`, at the first piece.
    """
    for piece in pieces(model, sound, known, frames):
        count = model.frames(len(piece))
        padded = min(s for i in range(_HALVINGS) if (s := -(-frames // 2**i)) >= count)
        # The most samples that give that many frames: a time norm counts the ones after the last frame too.
        wave = np.zeros((1, padded * model.stride + model.receptive_field - 1), np.float32)
        wave[0, : len(piece)] = piece
        out = _run(model, variables, wave, np.array([len(piece)], np.int32))
        yield np.asarray(out[0, :count], np.float32)


def features(model: Hubert, variables: Mapping[str, Any], sound: Sound) -> np.ndarray:
    """All features [t, c] of `sound`, float32: 200 kB a second for the large network. See `extract`, `write`."""
    return np.concatenate(list(extract(model, variables, sound)))


def write(
    path: str | Path, model: Hubert, variables: Mapping[str, Any], sound: Sound, dtype: Any = np.float32
) -> tuple[int, int]:
    """Writes the features of `sound` to the .npy file `path` as they come; returns its shape [t, c].

    Raises:
      InputError: as `extract`; the file is not touched then.
    """
    known = _known(model, sound, None)
    out = np.lib.format.open_memmap(path, "w+", dtype, (model.frames(known.samples), model.width))
    done = 0
    for part in extract(model, variables, sound, known):
        out[done : done + len(part)] = part
        done += len(part)
    out.flush()
    return out.shape


def load(folder: str | Path) -> tuple[Hubert, dict[str, Any]]:
    """Network and variables of a folder as `transformers` saves it: config.json and one file of weights.

    Raises:
      InputError: when one of the two is missing, or they do not belong together.
    """
    folder = Path(folder).expanduser()
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if not (folder / "config.json").is_file() or not files:
        raise InputError(
            f"{folder} holds no HuBERT: expected config.json beside model.safetensors or pytorch_model.bin, as in "
            "facebook/hubert-large-ls960-ft"
        )
    model = from_config(json.loads((folder / "config.json").read_text()))
    variables = convert.to_variables(read_arrays(files[0]), RULES)
    wave = jax.ShapeDtypeStruct((1, model.receptive_field), np.float32)
    convert.check_against(variables, jax.eval_shape(model.init, jax.random.key(0), wave))
    return model, variables
