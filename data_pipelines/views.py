"""Two views of one head: what the image-to-plane stage trains on.

From synthetic people, an example has (numpy; s = side of images, r = side of depth maps):

    example                         uint32, its number
    source, target                  uint8 [s, s, 3]: the head on black from two cameras, nothing else changed
    source_camera, target_camera    float32 [25]
    source_depth, target_depth      float32 [r, r]: distance along the ray in world units, 0 where there is no head

For a generator as the teacher, which draws the pictures on the device, it has

    example                         uint32, its number
    latent                          float32 [z], standard normal
    mapping_camera                  float32 [25], what the generator is conditioned on
    source_camera, target_camera    float32 [25]
"""

import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from r3p import camera
from r3p.camera import WORLD_SCALE, from_pose
from r3p.errors import InputError

DEPTH_RANGE = (2.0, 30.0)  # head units


class PeopleViews:
    """Example k of a seed: person k // per_person from two cameras."""

    def __init__(self, seed: int, size: int, depth_size: int, per_person: int = 4) -> None:
        self.seed, self.size, self.depth_size, self.per_person = seed, size, depth_size, per_person
        self._last: tuple[int, Any] = (-1, None)

    @cached_property
    def _people(self) -> Any:
        from data_pipelines.people import People

        return People(self.seed, self.size, 32)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        from data_pipelines.people_motion import draw_expression
        from data_pipelines.people_scene import draw_lights

        people, who = self._people, int(index) // self.per_person
        if self._last[0] != who:
            self._last = who, people.person(np.random.default_rng([self.seed, who]))
        rng = np.random.default_rng([self.seed, who, int(index)])
        person = replace(self._last[1], lights=draw_lights(rng))
        expression = draw_expression(rng, people.head, calm=rng.random() < 0.5)
        background = np.zeros((self.size, self.size, 3), np.uint8)
        out: dict[str, np.ndarray] = {"example": np.array(int(index) % 2**32, np.uint32)}
        for name in ("source", "target"):
            pose = people.pose(rng, free=rng.random() < 0.5)
            picture = people.renderer.draw(person, expression, pose, 2 * self.size)
            view = people.develop(picture, background)
            out[name] = view["head"]
            out[f"{name}_camera"] = from_pose(pose.euler, pose.trans).astype(np.float32)
            out[f"{name}_depth"] = self._depth(picture.vertices, view["head_mask"])
        return out

    def _depth(self, posed: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Of the bare head; hair has none of its own."""
        from data_pipelines.head import rasterize

        side, head = self.depth_size, self._people.head
        _, depth = rasterize(posed, head.triangles, [], side, depth_range=DEPTH_RANGE, cull=True)
        place = ((np.arange(side) + 0.5) / side - 0.5) / camera.FOCAL
        along = np.sqrt(1 + place[:, None] ** 2 + place[None] ** 2)  # the ray is longer than its depth
        on = (depth < DEPTH_RANGE[1]) & (cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) > 127)
        return np.where(on, depth * along * WORLD_SCALE, 0).astype(np.float32)

    def __repr__(self) -> str:  # grain keys its checkpoints by it
        return f"PeopleViews({self.seed}, {self.size}, {self.depth_size}, {self.per_person})"


class GeneratorViews:
    """Latents and cameras for a generator.

    Each of both cameras is a random one (pitch within 26 degrees, yaw within 38, distance 2.7 to 4) or, as often, one
    of `cameras` [n, 25]: those of real frames, from an .npy file; without a file it is always a random one. The
    generator is conditioned on a third, within 10 and 16 degrees and 2.7 to 3.2.
    """

    def __init__(self, seed: int, latent: int, cameras: str = "") -> None:
        self.seed, self.latent, self.cameras = seed, latent, cameras
        self._real = _cameras(cameras) if cameras else None

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, int(index)])
        out: dict[str, np.ndarray] = {"example": np.array(int(index) % 2**32, np.uint32)}
        out["latent"] = rng.standard_normal(self.latent, np.float32)
        near = dict(pitch=math.radians(10), yaw=math.radians(16), distance=(2.7, 3.2))
        out["mapping_camera"] = camera.sample(rng.random(3), **near)  # type: ignore[arg-type]
        for name in ("source_camera", "target_camera"):
            drawn = camera.sample(rng.random(3))
            if self._real is not None and rng.random() < 0.5:
                drawn = self._real[rng.integers(len(self._real))]
            out[name] = drawn
        return {k: v if k == "example" else np.asarray(v, np.float32) for k, v in out.items()}

    def __repr__(self) -> str:
        return f"GeneratorViews({self.seed}, {self.latent}, {self.cameras!r})"


def _cameras(path: str) -> np.ndarray:
    try:
        found = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} holds no cameras ({error}): give an .npy file of float32 [n, 25]") from None
    if found.ndim != 2 or found.shape[1] != 25 or not len(found):
        raise InputError(f"{path} holds an array {found.shape}: expected cameras [n, 25], at least one")
    return found.astype(np.float32)
