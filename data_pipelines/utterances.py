"""Utterances of people for SyncNet and audio-to-motion: their format, and which of them make a batch. NumPy only.

A folder holds `index.json` and one `NAME.safetensors` an utterance, so that any number of them is read at random:

    index.json   {"names": [..], "frames": [..] video frames T at 25 Hz, "people": [..] who speaks, "held_out": [..]}
    NAME.safetensors    audio f16 [2T, c] speech features at 50 Hz (HuBERT's 1024, or mel bands), pitch f32 [2T] Hz,
                 identity f32 [i], expression f32 [T, e], blink u8 [T] (`r3p.mesh_motion.blink_code`),
                 amplitude f32 (`r3p.mesh_motion.mouth_amplitude`)

(Threads cannot share NumPy's own files: some versions of Python fail to parse two headers at once.)
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.ahead import draw_ahead
from data_pipelines.shards import is_shards
from r3p.checkpoint_files import read_arrays
from r3p.checkpoint_files.safetensors import write_safetensors
from r3p.errors import InputError

INDEX = "index.json"
KEYS = ("audio", "pitch", "identity", "expression", "blink", "amplitude")
SHORTEST = 16  # frames; SyncNet compares five frames with five that are up to ten away
READERS = 8  # threads; reading waits for the disk


def write_utterance(folder: Path, name: str, item: Mapping[str, Any]) -> int:
    """Writes `NAME.safetensors` of an item with `KEYS`; returns its frames.

    Raises:
      InputError: audio and expression that do not last equally long, or less than `SHORTEST` frames.
    """
    frames = len(item["expression"])
    lengths = {"audio": 2 * frames, "pitch": 2 * frames, "blink": frames}
    wrong = [f"{len(item[k])} {k} frames, expected {n}" for k, n in lengths.items() if len(item[k]) != n]
    if wrong or frames < SHORTEST:
        reason = "; ".join(wrong) or f"expected at least {SHORTEST}"
        raise InputError(f"utterance {name} has {frames} video frames ({reason}): cut it anew")
    types = {"audio": np.float16, "blink": np.uint8}
    arrays = {k: np.asarray(item[k], types.get(k, np.float32)) for k in KEYS}
    write_safetensors(folder / f"{name}.safetensors", arrays)
    return frames


def like(frames: int, features: int, identity: int, expression: int) -> dict[str, np.ndarray]:
    """An empty utterance of so many video frames, features of the sound and coefficients."""
    return dict(
        audio=np.zeros((2 * frames, features), np.float16),
        pitch=np.zeros(2 * frames, np.float32),
        identity=np.zeros(identity, np.float32),
        expression=np.zeros((frames, expression), np.float32),
        blink=np.zeros(frames, np.uint8),
        amplitude=np.zeros((), np.float32),
    )


def write_index(
    folder: Path, names: Sequence[str], frames: Sequence[int], people: Sequence[str], held_out: Sequence[bool]
) -> None:
    """Writes the folder's index."""
    columns = dict(names=list(names), frames=list(frames), people=list(people), held_out=list(held_out))
    (folder / INDEX).write_text(json.dumps(columns))


class Utterances:
    """One half of a folder: what is trained on, or what is held out. `frames` [n] and `person` [n] are integers.

    The folder may also be shards of clips (`r3p prepare`): their split `validation` is what is held out.

    Raises:
      InputError: no such folder, or none of that half in it.
    """

    def __init__(self, folder: str | Path, held_out: bool = False):
        self._folder = Path(folder).expanduser()
        self._clips: Any = None
        if is_shards(folder):
            from data_pipelines.clip_pairs import ClipUtterances

            self._clips = clips = ClipUtterances(folder, held_out)
            self.names, self.frames, self.person = clips.names, clips.frames, clips.person
            return
        path = self._folder / INDEX
        if not path.is_file():
            raise InputError(
                f"{path} does not exist: make such a folder, for example with python -m data_pipelines.speech_people "
                f"--out {folder}, or shards with r3p prepare"
            )
        index = json.loads(path.read_text())
        chosen = np.flatnonzero(np.array(index["held_out"], bool) == held_out)
        if not len(chosen):
            raise InputError(f"{path} has no utterances with held_out = {held_out}: make more of them")
        self.names = [index["names"][k] for k in chosen]
        self.frames = np.array(index["frames"])[chosen]
        self.person = np.unique(np.array(index["people"])[chosen], return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        if self._clips is not None:
            return self._clips[k]
        arrays = read_arrays(self._folder / f"{self.names[k]}.safetensors")
        return {key: arrays[key] for key in KEYS}


class Buckets:
    """Utterances of about the same length go together: which are in a step, and to how many frames they are padded.

    Every epoch shuffles each bucket, cuts it into batches (a last one that is not full is filled from the bucket's
    start) and shuffles these: a pure function of the step.

    Args:
      frames: [n] of the utterances.
      bounds: rising padded lengths; longer utterances are cut to the last one.
      batch_size: utterances of a step.
      seed: of the shuffles.
    """

    def __init__(self, frames: np.ndarray, bounds: Sequence[int], batch_size: int, seed: int):
        place = np.minimum(np.searchsorted(bounds, frames), len(bounds) - 1)
        self._buckets = [(bound, np.flatnonzero(place == k)) for k, bound in enumerate(bounds) if (place == k).any()]
        self._size, self._seed = batch_size, seed
        self._epoch: tuple[int, list[tuple[np.ndarray, int]]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        return sum(-(-len(members) // self._size) for _, members in self._buckets)

    def step(self, step: int) -> tuple[np.ndarray, int]:
        """Utterances [batch_size] of a step and their padded length."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            rng = np.random.default_rng((self._seed, epoch))
            batches: list[tuple[np.ndarray, int]] = []
            for bound, members in self._buckets:
                count = -(-len(members) // self._size)
                filled = np.resize(rng.permutation(members), (count, self._size))
                batches += [(row, bound) for row in filled]
            self._epoch = epoch, [batches[k] for k in rng.permutation(len(batches))]
        return self._epoch[1][place]


def run_of(batch_size: int, process: tuple[int, int]) -> range:
    """The rows of a batch that a process (index, count) gives: a run of them, whatever the count."""
    index, processes = process
    local = batch_size // processes
    return range(index * local, (index + 1) * local)


class Draws(NamedTuple):
    """What is drawn for an utterance beside its place: SyncNet's clips, and frames a latent of how many channels."""

    clips: int
    stride: int
    latent: int


def padded(item: Mapping[str, np.ndarray], size: int, draws: Draws, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """An utterance of `size` frames for the device: cut at a random place where it is longer, else padded with zeros.

    `mask` [size] is 1 where it lasts; `clip_start` [clips] are first frames of five that lie within it; `noise`
    [size / stride, latent] is normal. (Drawn here, it is the example's own on any number of devices.)
    """
    frames = len(item["expression"])
    start, kept = int(rng.integers(max(frames - size, 0) + 1)), min(frames, size)

    def fit(x: np.ndarray, rate: int) -> np.ndarray:
        x = x[rate * start : rate * (start + kept)].astype(np.float32)
        return np.pad(x, [(0, rate * (size - kept))] + [(0, 0)] * (x.ndim - 1))

    return dict(
        audio=fit(item["audio"], 2),
        pitch=fit(item["pitch"], 2),
        # The network reads every second value of a code at the sound's rate.
        blink=np.repeat(fit(item["blink"], 1).astype(np.int32), 2),
        amplitude=item["amplitude"].astype(np.float32),
        identity=item["identity"],
        expression=fit(item["expression"], 1),
        mask=(np.arange(size) < kept).astype(np.float32),
        clip_start=rng.integers(kept - 4, size=draws.clips).astype(np.int32),
        noise=rng.standard_normal((size // draws.stride, draws.latent), dtype=np.float32),
    )


def batches(
    utterances: Utterances,
    batch_size: int,
    bounds: Sequence[int],
    draws: Draws,
    seed: int,
    first_step: int,
    process: tuple[int, int] = (0, 1),
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of one process from `first_step` on, of `padded` utterances: see there and `Buckets`.

    `example` [b] says which they are.

    Args:
      utterances: from.
      batch_size: utterances of a step over all processes.
      bounds: see `Buckets`.
      draws: see there.
      seed: of order and draws.
      first_step: where a resumed run goes on.
      process: (index, count) of processes.
    """
    buckets = Buckets(utterances.frames, bounds, batch_size, seed)
    places = run_of(batch_size, process)
    with ThreadPoolExecutor(READERS) as readers:

        def draw(step: int) -> dict[str, np.ndarray]:
            members, size = buckets.step(step)

            def one(place: int) -> dict[str, np.ndarray]:
                rng, k = np.random.default_rng((seed, step, place)), int(members[place])
                return padded(utterances[k], size, draws, rng) | {"example": np.asarray(k, np.int32)}

            rows = list(readers.map(one, places))
            return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

        yield from draw_ahead(draw, itertools.count(first_step))
