"""Pairs of frames of one clip, with the motion about the target: what the head and the torso stages train on.

An example has (numpy; s = side of images, p = side of PNCC maps; uint8 unless said):

    example           uint32            its number: whatever is drawn for it on the device is keyed by this
    source, target    [s, s, 3]         two frames of a person before the clip's (inpainted) background
    source_segmap     [s, s]            class ids: 0 background, 1 hair, 2 body skin, 3 face skin, 4 clothes, 5 others
    target_head       [s, s, 3]         the target's head on black
    target_head_mask, target_mask [s, s]    255 on the head; on the person
    torso             [s, s, 3]         the source's torso, extended under the head, on black
    background        [s, s, 3]
    source_camera, target_camera        float32 [25]
    source_keypoints, target_keypoints  float32 [68, 3] in [-1, 1], z = 0
    pncc_canonical, pncc_source, pncc_target    [p, p, 3], 0 where there is no face
    pncc_before, pncc_after             [p, p, 3]: the frames beside the target, t - 1 and t + 1
    pncc_perturbed    [p, p, 3]         a frame with a little noise on its identity and expression
    pncc_blink        [3, p, p, 3]      a frame whose lids are shut to p1 in [0, 0.5], (p1 + p3) / 2, p3 in [0.5, 1]
    perturbed_source, blinked_source    1 where that frame is the source, which is so with probability 0.25; else the
                                        target

The first twelve lines are what `data_pipelines.people`, its shards and `r3p.puppet` give; `add_motion` draws the others
from `identity` [80], `{source, target}_expression` [64] and, where a clip has them, `before_expression` and
`after_expression`. Real clips give the same keys and their true neighbours.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count as count_from
from typing import Any, Protocol

import grain
import numpy as np

from data_pipelines.ahead import draw_ahead
from data_pipelines.clip_pairs import ClipPairs
from data_pipelines.head import Head, draw_pncc
from data_pipelines.people_shards import PeopleShards
from data_pipelines.puppets import Puppets
from data_pipelines.shards import is_shards
from data_pipelines.utterances import run_of
from r3p.errors import InputError

KEYS = (
    "example", "source", "source_segmap", "target", "target_head", "target_head_mask", "target_mask", "torso",
    "background", "source_camera", "target_camera", "source_keypoints", "target_keypoints",
    "pncc_canonical", "pncc_source", "pncc_target",
)  # fmt: skip
MOTION = ("pncc_before", "pncc_after")
PERTURBED = ("pncc_perturbed", "perturbed_source")
BLINKED = ("pncc_blink", "blinked_source")

SOURCE_SHARE = 0.25  # of the perturbed and of the blinking frames
NOISE = 0.01  # on identity and expression, in their units
PACE = (4.0, 12.0)  # frames from one key expression to the next: mouth shapes of speech last 3 to 12
HELD_OUT_PEOPLE = 16  # of shards of synthetic people one in so many is held out


def like(keys: Sequence[str], size: int, pncc_size: int) -> dict[str, np.ndarray]:
    """An empty example of `keys`, in the shapes and types above."""
    whole, one = (size, size, 3), (size, size)
    out = {}
    shape: tuple[int, ...]
    kind: type
    for key in keys:
        if key == "example":
            shape, kind = (), np.uint32
        elif key.endswith("_camera"):
            shape, kind = (25,), np.float32
        elif key.endswith("_keypoints"):
            shape, kind = (68, 3), np.float32
        elif key.startswith("pncc_"):
            shape, kind = (3,) * (key == "pncc_blink") + (pncc_size, pncc_size, 3), np.uint8
        elif key in (PERTURBED[1], BLINKED[1]):
            shape, kind = (), np.uint8
        else:
            shape, kind = one if key.endswith(("_segmap", "_mask")) else whole, np.uint8
        out[key] = np.zeros(shape, kind)
    return out


class Examples(Protocol):
    """Random access to examples; endless ones say so by their length."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...


class DrawnPeople:
    """Synthetic people drawn on the fly: as many as anyone asks for."""

    def __init__(self, seed: int, size: int, pncc_size: int, per_person: int = 2) -> None:
        self.settings = (seed, size, pncc_size, per_person)

    @cached_property  # not in __init__: workers get a copy of this object before they use it
    def _people(self) -> Any:
        from data_pipelines.people import People

        return People(*self.settings)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self._people[index]

    def __repr__(self) -> str:  # grain keys its checkpoints by it
        return f"DrawnPeople{self.settings}"


class DrawnPuppets:
    """Photographs of synthetic people as teachers of themselves, `per_person` frames of each."""

    def __init__(self, seed: int, size: int, pncc_size: int, per_person: int = 16) -> None:
        self._puppets, self.per_person = Puppets(seed, size, pncc_size), per_person
        self._last: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        who = int(index) // self.per_person
        if self._last[0] != who:
            self._last = who, self._puppets[who]
        return self._last[1].example(np.random.default_rng([self._puppets.seed, who, int(index)]))

    def __repr__(self) -> str:
        return f"DrawnPuppets({self._puppets.seed}, {self._puppets.size}, {self.per_person})"


def examples(
    kind: str, *, folder: str, seed: int, size: int, pncc_size: int, held_out: bool = False
) -> Examples:  # fmt: skip
    """`people` and `puppets` drawn on the fly, or `shards` of a folder. Raises InputError for another.

    Shards are those of clips that `r3p prepare` wrote, or of synthetic people (`data_pipelines.people_shards`). Of
    clips it is the split `validation` that is held out; for all others, `part` knows.
    """
    if kind == "people":
        return DrawnPeople(seed, size, pncc_size)
    if kind == "puppets":
        return DrawnPuppets(seed, size, pncc_size)
    if kind != "shards":
        raise InputError(f"data.source is {kind!r}: choose people, puppets or shards")
    if is_shards(folder):
        pairs = ClipPairs(folder, seed, pncc_size, "validation" if held_out else "train")
        if pairs.size != size:
            raise InputError(
                f"{folder} holds images of {pairs.size} pixels, the config wants {size}: set data.size, or run r3p "
                f"prepare with --size {size}"
            )
        return pairs
    shards = PeopleShards(folder)
    held = shards.header["size"], shards.header["pncc_size"]
    if held != (size, pncc_size):
        raise InputError(
            f"{folder} holds images and PNCC of {held[0]} and {held[1]} pixels, the config wants {size} and "
            f"{pncc_size}: set data.size and data.pncc_size, or write other shards"
        )
    return shards


class Chosen:
    """Those of the examples that have these numbers."""

    def __init__(self, source: Examples, numbers: Sequence[int] | np.ndarray) -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.source[int(self.numbers[index])]

    def __repr__(self) -> str:  # grain keys its checkpoints by it
        return f"Chosen({self.source!r}, {len(self)} from {self.numbers[0]} on)"


def part(rows: Examples, source: Examples, held_out: bool) -> Examples:
    """The half of `rows`, one for each example of `source`, that is trained on, or that which is held out.

    Nobody is in both: the first half of those who are drawn on the fly, which no training ever gets through; every
    `HELD_OUT_PEOPLE`-th person of shards. Clips come in splits already.

    Raises:
      InputError: shards of too few people.
    """
    count = len(rows)
    if isinstance(source, PeopleShards):
        who = np.arange(count) // source.header["per_person"]
        numbers = np.flatnonzero((who % HELD_OUT_PEOPLE == HELD_OUT_PEOPLE - 1) == held_out)
        if not len(numbers):
            raise InputError(
                f"{source.folder} holds {len(set(who))} people, one in {HELD_OUT_PEOPLE} of whom is held out: add more"
            )
        return Chosen(rows, numbers)
    if isinstance(source, ClipPairs):
        return rows
    return Chosen(rows, range(count // 2, count) if held_out else range(count // 2))


# ------------------------------------------------------------------------------------------------ motion
def neighbours(
    rng: np.random.Generator, head: Head, expression: np.ndarray, extrapolated: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Expressions [64] of the frames before and after one: on the parabola through random key expressions about it.

    extrapolated: the frame after (or, as often, before) is the mirror image of the other about this one instead of what
    follows, as in the original.
    """
    from data_pipelines.people_motion import draw_expression

    earlier, later = draw_expression(rng, head), draw_expression(rng, head)
    pace = rng.uniform(*PACE)
    speed, bend = (later - earlier) / (2 * pace), (later - 2 * expression + earlier) / pace**2
    before, after = expression - speed + bend / 2, expression + speed + bend / 2
    if extrapolated:
        before, after = mirrored(rng, expression, before, after)
    return before.astype(np.float32), after.astype(np.float32)


def mirrored(
    rng: np.random.Generator, here: np.ndarray, before: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One of both neighbours at random, and its mirror image about this frame for the other."""
    return (before, 2 * here - before) if rng.random() < 0.5 else (2 * here - after, after)


def add_motion(
    example: dict[str, np.ndarray], rng: np.random.Generator, head: Head, pncc_size: int, keys: Sequence[str],
    *, extrapolated: bool = False,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The example with those of `MOTION`, `PERTURBED` and `BLINKED` that `keys` ask for."""
    out = dict(example)
    identity, expression = example["identity"], example["target_expression"]
    still = np.zeros(len(head.expression), np.float32)
    neutral = head.vertices(identity, still)

    def draw(expression: np.ndarray) -> np.ndarray:
        return draw_pncc(head, head.express(neutral, expression), pncc_size)

    if MOTION[0] in keys:
        if "before_expression" in example:
            before, after = example["before_expression"], example["after_expression"]
            if extrapolated:
                before, after = mirrored(rng, expression, before, after)
        else:
            before, after = neighbours(rng, head, expression, extrapolated)
        out |= {"pncc_before": draw(before), "pncc_after": draw(after)}
    if PERTURBED[0] in keys:
        of_source = rng.random() < SOURCE_SHARE
        base = example["source_expression"] if of_source else expression
        person = (identity + rng.normal(0, NOISE, identity.shape)).astype(np.float32)
        moved = (base + rng.normal(0, NOISE, base.shape)).astype(np.float32)
        out["pncc_perturbed"] = draw_pncc(head, head.vertices(person, moved), pncc_size)
        out["perturbed_source"] = np.array(of_source, np.uint8)
    if BLINKED[0] in keys:
        of_source = rng.random() < SOURCE_SHARE
        base = (example["source_expression"] if of_source else expression).copy()
        lids = [head.names.index(f"eyeBlink{side}") for side in ("Left", "Right")]
        low, high = rng.uniform(0, 0.5), rng.uniform(0.5, 1)
        maps = []
        for closure in (low, (low + high) / 2, high):
            base[lids] = closure
            maps.append(draw(base))
        out |= {"pncc_blink": np.stack(maps), "blinked_source": np.array(of_source, np.uint8)}
    return out


# ------------------------------------------------------------------------------------------------ batches
class Frames:
    """Examples with the motion that a stage asks for; example k of a seed is always the same."""

    def __init__(
        self, source: Examples, seed: int, pncc_size: int, keys: Sequence[str], extrapolated: bool = False
    ) -> None:
        self.source, self.seed, self.pncc_size = source, seed, pncc_size
        self.keys, self.extrapolated = tuple(keys), extrapolated

    @cached_property
    def _head(self) -> Head:
        return Head()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, 77, int(index)])
        example = self.source[int(index)]
        example = add_motion(
            example, rng, self._head, self.pncc_size, self.keys, extrapolated=self.extrapolated
        )  # fmt: skip
        return {k: example[k] for k in self.keys if k != "example"} | {
            "example": np.array(int(index) % 2**32, np.uint32)
        }

    def __repr__(self) -> str:
        return f"Frames({self.source!r}, {self.seed}, {self.keys})"


def batches(
    frames: Examples,
    batch_size: int,
    seed: int,
    first_step: int,
    process: tuple[int, int] = (0, 1),
    steps: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of one process from `first_step` on, endless or so many; a pure function of the step.

    What has an end is shuffled in every epoch. A process, whose (index, count) is `process`, gives its own run of rows.
    """
    size, places = len(frames), run_of(batch_size, process)
    order = grain.MapDataset.range(size).seed(seed)
    if size < 2**31:
        order = order.shuffle().repeat()

    def draw(step: int) -> dict[str, np.ndarray]:
        rows = [frames[int(order[step * batch_size + row])] for row in places]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    yield from draw_ahead(draw, count_from(first_step) if steps is None else range(first_step, first_step + steps))
