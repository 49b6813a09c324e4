"""Pairs of sound and mouth for SyncNet: of one moment, of two moments, of two people. NumPy only.

A step reads windows of utterances and takes many pairs of clips from each, of five video frames and the ten feature
frames that sound meanwhile. The shares are the original's: 40 % belong together; 30 % are the same person's, two to
five frames apart; 20 % five to ten frames apart; for 10 % the mouth is another person's.
"""

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_pipelines.ahead import draw_ahead
from data_pipelines.utterances import READERS, Utterances, run_of
from r3p.errors import InputError

CLIP = 5  # video frames
POSITIVE, NEAR, FAR = 0.4, 0.3, 0.2  # the rest is another person's
NEAR_SHIFT, FAR_SHIFT = (2, 5), (5, 10)  # frames, both ends included


def draw_pairs(rng: np.random.Generator, count: int, own: int, other: int) -> dict[str, np.ndarray]:
    """`count` pairs in a window of `own` frames, with another person's of `other` frames.

    Returns:
      audio_start, mouth_start i32 [count]: first video frames of both clips; from_other bool [count]: the mouth is the
      other person's; label f32 [count]: 1 where they belong together. Kinds stand in their order: a share of the
      whole is exact.
    """
    edges = np.round(np.cumsum([POSITIVE, NEAR, FAR]) * count).astype(int)
    kind = np.searchsorted(edges, np.arange(count), side="right")
    shift = np.zeros(count, int)
    for k, (least, most) in ((1, NEAR_SHIFT), (2, FAR_SHIFT)):
        shift = np.where(kind == k, rng.integers(least, most + 1, count), shift)
    shift *= rng.choice([-1, 1], count)
    last = own - CLIP
    # Both clips lie in the window: the sound's is drawn where the mouth's is one as well.
    low, high = np.maximum(0, -shift), np.minimum(last, last - shift)
    audio = low + np.floor(rng.random(count) * (high - low + 1)).astype(int)
    mouth = np.where(kind == 3, rng.integers(other - CLIP + 1, size=count), audio + shift)
    return dict(
        audio_start=audio.astype(np.int32),
        mouth_start=mouth.astype(np.int32),
        from_other=kind == 3,
        label=(kind == 0).astype(np.float32),
    )


def _window(item: dict[str, np.ndarray], size: int, rng: np.random.Generator) -> tuple[int, np.ndarray, np.ndarray]:
    frames = len(item["expression"])
    kept = min(frames, size)
    start = int(rng.integers(frames - kept + 1))
    audio = item["audio"][2 * start : 2 * (start + kept)].astype(np.float32)
    motion = item["expression"][start : start + kept]
    return kept, np.pad(audio, ((0, 2 * (size - kept)), (0, 0))), np.pad(motion, ((0, size - kept), (0, 0)))


def example(
    mine: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
    number: int,
    size: int,
    pairs: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """A row of `batches`: windows of `size` frames of two people's utterances, and pairs of clips in them."""
    own, audio, motion = _window(mine, size, rng)
    far, _, moved = _window(theirs, size, rng)
    return dict(
        audio=audio,
        expression=motion,
        identity=mine["identity"],
        other_expression=moved,
        other_identity=theirs["identity"],
        example=np.asarray(number, np.int32),
        **draw_pairs(rng, pairs, own, far),
    )


def batches(
    utterances: Utterances,
    batch_size: int,
    size: int,
    pairs: int,
    seed: int,
    first_step: int,
    process: tuple[int, int] = (0, 1),
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of one process from `first_step` on; an example needs nothing of the others.

    Yields audio [b, 2 size, c], expression [b, size, e], identity [b, i], other_expression, other_identity, the pairs
    [b, pairs] of `draw_pairs`, and example [b], which utterances these are.

    Args:
      utterances: from; every epoch has its own order.
      batch_size: windows of a step over all processes.
      size: of a window in video frames; shorter utterances are padded, and pairs lie in what is there.
      pairs: of a window.
      seed: of order, windows and pairs.
      first_step: where a resumed run goes on.
      process: (index, count) of processes.

    Raises:
      InputError: when all utterances are one person's.
    """
    people = np.bincount(utterances.person)
    if (people > 0).sum() < 2:
        raise InputError(
            f"the {len(utterances)} utterances are one person's: SyncNet also learns from sounds with another "
            "person's mouth, add a second person"
        )
    # Everyone's utterances lie together, so that those of all others are a ring with a gap.
    ring = np.argsort(utterances.person, kind="stable")
    ends = np.cumsum(people)
    places = run_of(batch_size, process)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(len(utterances))

    with ThreadPoolExecutor(READERS) as readers:

        def draw(step: int) -> dict[str, np.ndarray]:
            # Steps go on through the epochs without a seam.
            total = step * batch_size + np.array(places)
            epochs, turns = np.divmod(total, len(utterances))
            orders = {int(e): order(int(e)) for e in np.unique(epochs)}

            def one(row: int) -> dict[str, np.ndarray]:
                rng = np.random.default_rng((seed, step, places[row]))
                k = int(orders[int(epochs[row])][turns[row]])
                who = utterances.person[k]
                others = len(utterances) - people[who]
                other = int(ring[(ends[who] + rng.integers(others)) % len(utterances)])
                mine, theirs = utterances[k], utterances[other]
                return example(mine, theirs, k, size, pairs, rng)

            rows = list(readers.map(one, range(len(total))))
            return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

        yield from draw_ahead(draw, itertools.count(first_step))
