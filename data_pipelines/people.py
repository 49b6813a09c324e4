"""Synthetic people: seeded, drawn on the fly with numpy and OpenCV, as teachers of the small model.

    python -m data_pipelines.people --sheet people.png --seed 0 --count 16     look at them
    python -m data_pipelines.people --bench                                    milliseconds an example
    python -m data_pipelines.people --out DIR --count 20000 --workers 8        shards for `people_shards.PeopleShards`

An example is one person photographed twice: the source as a camera would see it, the target clean, with true masks,
cameras, key points and PNCC. It never imports jax, so that data workers leave the accelerator alone.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.head import HEAD_FILE, SKIN, TONGUE, UPPER_TEETH, Head, draw_pncc, project
from data_pipelines.people_canvas import EYE_LOWER, EYE_UPPER, LIPS_OUTER, build_canvas
from data_pipelines.people_hair import STYLE_FEMALE, STYLE_MALE, STYLES, beard_layers, hair_layers
from data_pipelines.people_layers import Scalp
from data_pipelines.people_motion import draw_expression, draw_identity
from data_pipelines.people_render import BACKGROUND, PIVOT, Person, Picture, Pose, Renderer
from data_pipelines.people_scene import draw_background, draw_lights, photograph
from data_pipelines.people_skin import hair_colour, paint_person, skin_tone
from data_pipelines.people_wardrobe import cap_layers, clothes_layers, glasses_layers, scarf_layers
from r3p.camera import from_pose, rotation

CROWNS = ((0.45, 0.0), (0.1, 0.35), (0.1, -0.35), (0.2, 0.0))  # tilt backward, lean sideways: where hair parts
CROWN_ODDS = (0.55, 0.12, 0.12, 0.21)
DEGREE = np.pi / 180


class People:
    """Generator of synthetic people.

    size: pixels of images; pncc_size: pixels of PNCC maps; per_person: so many examples in a row show the same person
    in other light, places and movements; head_file: the built-in head. `seed` drives `__getitem__` only: example k of a
    seed is always the same, whatever was drawn before.
    """

    def __init__(
        self, seed: int = 0, size: int = 256, pncc_size: int = 192, per_person: int = 2, head_file: Path = HEAD_FILE
    ):
        self.seed, self.size, self.pncc_size, self.per_person = seed, size, pncc_size, per_person
        self._last: tuple[int, Person] | None = None
        self.head = Head(head_file)
        self.canvas = build_canvas(self.head)
        self.renderer = Renderer(self.head, self.canvas)
        self.scalps = [Scalp(self.head, self.canvas, tilt, lean) for tilt, lean in CROWNS]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Example `index` of this seed."""
        who = int(index) // self.per_person
        if self._last is None or self._last[0] != who:
            self._last = who, self.person(np.random.default_rng([self.seed, who]))
        return self.example(np.random.default_rng([self.seed, who, int(index)]), self._last[1])

    def person(self, rng: np.random.Generator) -> Person:
        """A random person: shape, skin, hair, clothes and the light they stand in."""
        head, canvas = self.head, self.canvas
        identity = draw_identity(rng, len(head.identity))
        neutral = head.vertices(identity, np.zeros(len(head.expression), np.float32))
        neutral[head.part == UPPER_TEETH, 1] -= rng.uniform(0.0, 0.05)  # some show their upper teeth sooner
        neutral[head.part == TONGUE, 1] -= rng.uniform(0.0, 0.07)
        male = rng.random() < 0.5
        age = float(rng.beta(1.2, 1.6))
        tone, darkness = skin_tone(rng)
        hair = hair_colour(rng, darkness)
        if age > 0.7 and rng.random() < 0.6:
            grey = rng.uniform(0.35, 0.85)
            hair = hair + (np.float32(grey) - hair) * np.float32(rng.uniform(0.4, 1.0))
        style = str(rng.choice(STYLES, p=(STYLE_MALE if male else STYLE_FEMALE)))
        parted = style in ("side", "medium", "long", "short", "tied")
        scalp = self.scalps[rng.choice(len(CROWNS), p=CROWN_ODDS) if parted else 0]
        bearded = male and rng.random() < 0.3
        painted = 0.25 * rng.random() if style == "bald" else 0.0 if style in ("scarf", "cap") else 0.85
        look = {
            "tone": tone, "darkness": darkness, "hair": hair, "age": age,
            "makeup": 0.0 if male else float(rng.random()),
            "stubble": float(rng.beta(1, 2) if male and rng.random() < 0.65 else 0.0),
            "scalp": painted * scalp.cover,
        }  # fmt: skip
        paint = paint_person(rng, canvas, look)
        torso = clothes_layers(rng, head, canvas, neutral)
        sheets = []
        if bearded:
            sheets += beard_layers(rng, head, canvas, np.clip(hair * rng.uniform(0.7, 1.1), 0.02, 1), canvas.shade)
        if style == "scarf":
            sheets += scarf_layers(rng, scalp, neutral)
        elif style == "cap":
            sheets += hair_layers(rng, scalp, neutral, "cap", hair) if rng.random() < 0.8 else []
            sheets += cap_layers(rng, scalp, neutral)
        else:
            sheets += hair_layers(rng, scalp, neutral, style, hair)
        if rng.random() < 0.16:
            sheets += glasses_layers(rng, head, neutral)
        shade = canvas.shade.copy()
        skin = head.part == SKIN
        shade[skin] = np.clip(shade[skin] * 1.15 + 0.05, 0, 1)
        if style in ("long", "medium", "scarf", "fringe"):
            shade[skin & (canvas.face_weight < 0.5)] *= 0.7
        tags = {"style": style, "male": male, "beard": bearded}
        return Person(identity, neutral, paint, torso, sheets, draw_lights(rng), shade, tone**2, tags)

    def pose(self, rng: np.random.Generator, free: bool, base: Pose | None = None) -> Pose:
        """A random pose; with `base` (the source's) the torso stays nearly where it was."""
        spread = np.array([7.0, 10.0, 4.0]) if not free else np.array([9.0, 19.0, 6.0])
        limit = np.array([18.0, 35.0, 12.0])
        if free and rng.random() < 0.3:
            euler = rng.uniform(-limit, limit) * np.array([1, 1, 0.6])
        else:
            euler = np.clip(rng.normal(0, spread), -limit, limit)
        euler = euler * DEGREE
        if base is None:
            torso_euler = np.array([rng.normal(0, 2), rng.normal(0, 9), rng.normal(0, 1.5)]) * DEGREE
            torso_trans = np.array([rng.normal(0, 0.1), rng.normal(0.05, 0.06), rng.uniform(-3.6, -0.3)])
        else:
            torso_euler = base.torso_euler + rng.normal(0, [0.7, 1.5, 0.6]) * DEGREE
            torso_trans = base.torso_trans + rng.normal(0, [0.02, 0.015, 0.05])
        neck = rotation(torso_euler) @ PIVOT + torso_trans
        trans = neck - rotation(euler) @ PIVOT + rng.normal(0, 0.012, 3)
        return Pose(euler, trans, torso_euler, torso_trans)

    def render(
        self, person: Person, expression: np.ndarray, euler: np.ndarray, trans: np.ndarray,
        torso_euler: np.ndarray | None = None, torso_trans: np.ndarray | None = None,
    ) -> Picture:  # fmt: skip
        """The person with expression [64] under a head pose, at twice `size`; a torso not given sits upright."""
        turn = np.zeros(3) if torso_euler is None else torso_euler
        if torso_trans is None:
            torso_trans = rotation(euler) @ PIVOT + trans - rotation(turn) @ PIVOT
        return self.renderer.draw(person, expression, Pose(euler, trans, turn, torso_trans), 2 * self.size)

    def example(
        self, rng: np.random.Generator, person: Person | None = None, *, same_expression: bool = False
    ) -> dict[str, np.ndarray]:
        """One teacher example (numpy arrays, see the keys below); `person` instead of a new one.

        `same_expression`: the target is the source from another camera, nothing else.
        """
        person = replace(self.person(rng) if person is None else person, lights=draw_lights(rng))
        background = draw_background(rng, self.size)
        poses = [self.pose(rng, False)]
        poses.append(self.pose(rng, True, poses[0]))
        smile = rng.uniform(0.3, 1.0) if rng.random() < 0.4 else 0.0
        source = draw_expression(rng, self.head, calm=rng.random() < 0.75, smile=smile)
        expressions = [source, draw_expression(rng, self.head)]
        if same_expression:
            expressions[1] = expressions[0]
        out: dict[str, np.ndarray] = {"background": background, "identity": person.identity.astype(np.float32)}
        out["pncc_canonical"] = draw_pncc(self.head, person.neutral, self.pncc_size)
        for name, pose, expression in zip(("source", "target"), poses, expressions, strict=True):
            # the source is degraded afterwards, so that fewer samples do for it
            picture = self.renderer.draw(person, expression, pose, int(self.size * (1.5 if name == "source" else 2)))
            views = self.develop(picture, background)
            if name == "source":
                out["source"] = photograph(rng, views["image"])
                out["source_segmap"] = views["segmap"]
                out["torso"] = views["torso"]
            else:
                out["target"] = views["image"]
                out["target_head"] = views["head"]
                out["target_head_mask"] = views["head_mask"]
                out["target_mask"] = views["mask"]
                out["weight"] = self.weight(picture)
            out[f"{name}_camera"] = from_pose(pose.euler, pose.trans).astype(np.float32)
            out[f"{name}_keypoints"] = self.keypoints(picture.vertices)
            out[f"{name}_expression"] = expression
            out[f"{name}_euler"] = pose.euler.astype(np.float32)
            out[f"{name}_trans"] = pose.trans.astype(np.float32)
            out[f"pncc_{name}"] = draw_pncc(self.head, self.head.express(person.neutral, expression), self.pncc_size)
        return out

    def develop(self, picture: Picture, background: np.ndarray) -> dict[str, np.ndarray]:
        """A larger picture over a background [s, s, 3] -> uint8 image, head, torso, masks and segmap at `size`."""
        size = (self.size, self.size)

        def small(a: np.ndarray) -> np.ndarray:
            return cv2.resize(a, size, interpolation=cv2.INTER_AREA)

        head_alpha, torso_alpha = small(picture.head_alpha), small(picture.torso_alpha)
        head, torso = small(picture.head), small(picture.torso)
        behind = torso + (1 - torso_alpha[..., None]) * (background.astype(np.float32) / 255)
        image = head + (1 - head_alpha[..., None]) * behind
        mask = 1 - (1 - head_alpha) * (1 - torso_alpha)
        label = np.where(picture.head_alpha > 0.5, picture.head_label, picture.torso_label)
        votes = np.stack([small((label == k).astype(np.float32)) for k in range(6)])
        segmap = votes.argmax(0).astype(np.uint8)

        def u8(a: np.ndarray) -> np.ndarray:
            return np.round(np.clip(a, 0, 1) * 255).astype(np.uint8)

        segmap[mask < 0.5] = BACKGROUND
        return {
            "image": u8(image),
            "head": u8(head),
            "torso": u8(torso),
            "head_mask": u8(head_alpha),
            "mask": u8(mask),
            "segmap": segmap,
        }

    def keypoints(self, vertices: np.ndarray) -> np.ndarray:
        """Posed vertices -> the 68 key points [68, 3] in -1..1 image coordinates, z = 0."""
        points = self.head.landmarks(vertices)[self.head.arrays["landmarks_68"]]
        flat = np.clip(2 * project(points) - 1, -1, 1)
        return np.concatenate([flat, np.zeros((68, 1))], 1).astype(np.float32)

    def weight(self, picture: Picture) -> np.ndarray:
        """Loss weights uint8 [s, s], 16 = 1: lips and what is between them 6.5, eyes 6.5, other head 1.5."""
        flat = project(self.head.landmarks(picture.vertices)) * self.size
        mask: np.ndarray = np.zeros((self.size, self.size), np.uint8)
        for outline in (LIPS_OUTER, *(EYE_UPPER[k] + EYE_LOWER[k][::-1] for k in (0, 1))):
            hull = cv2.convexHull(flat[outline].astype(np.float32))
            cv2.fillPoly(mask, [np.round(hull).astype(np.int32)], 255)
        grow = max(3, self.size // 48) | 1
        grown = np.asarray(cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow))))
        soft = cv2.GaussianBlur(grown.astype(np.float32) / 255, (0, 0), self.size / 160)
        head = cv2.resize(picture.head_alpha, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.round(16 * (1 + 0.5 * head + 5 * soft * head)).astype(np.uint8)


def draw_sheet(people: People, count: int) -> np.ndarray:
    """Contact sheet: rows of two examples, each source, target, segmap, torso, head, PNCC."""
    palette = np.array(
        [(0, 0, 0), (150, 90, 40), (240, 200, 170), (220, 150, 120), (70, 100, 200), (90, 190, 90)], np.uint8
    )
    size = people.size
    rows = []
    for k in range(count):
        e = people[k]
        pncc = cv2.resize(e["pncc_target"], (size, size), interpolation=cv2.INTER_NEAREST)
        rows.append(
            np.concatenate(
                [e["source"], e["target"], palette[e["source_segmap"]], e["torso"], e["target_head"], pncc], 1
            )
        )
    if len(rows) % 2:
        rows.append(np.zeros_like(rows[0]))
    return np.concatenate([np.concatenate(rows[k : k + 2], 1) for k in range(0, len(rows), 2)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet here")
    parser.add_argument("--bench", action="store_true", help="time examples on one thread")
    parser.add_argument("--out", type=Path, help="write shards into this folder")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pncc-size", type=int, default=192)
    parser.add_argument("--per-person", type=int, default=2, help="examples of each person")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.out:
        from data_pipelines.people_shards import write_shards

        write_shards(args.out, args.count, args.seed, args.size, args.pncc_size, args.workers, args.per_person)
        return
    people = People(args.seed, args.size, args.pncc_size, args.per_person)
    if args.bench:
        people[0]
        start, spent = time.perf_counter(), time.process_time()
        for k in range(args.count):
            people[k]
        wall, cpu = (time.perf_counter() - start) / args.count * 1e3, (time.process_time() - spent) / args.count * 1e3
        print(
            f"{wall:.0f} ms an example ({cpu:.0f} ms of processor), size {args.size}, PNCC {args.pncc_size}, "
            f"{args.per_person} examples a person, one thread"
        )
    if args.sheet:
        cv2.imwrite(str(args.sheet), draw_sheet(people, args.count)[..., ::-1])


if __name__ == "__main__":
    main()
