"""Films whose truth is known: a synthetic person moves, and what was done to face and head comes along."""

from dataclasses import dataclass

import av
import numpy as np

from data_pipelines.people import People
from data_pipelines.people_render import PIVOT, Pose
from data_pipelines.people_scene import draw_background
from r3p import video
from r3p.camera import rotation


@dataclass
class Truth:
    """frames [t, s, s, 3] uint8; expression [t, 64]; euler, trans [t, 3]; vertices [t, v, 3] posed."""

    frames: np.ndarray
    expression: np.ndarray
    euler: np.ndarray
    trans: np.ndarray
    vertices: np.ndarray


def moving_units(frames: int) -> dict[str, np.ndarray]:
    """A jaw, a smile, brows and two blinks, none in step with another."""
    t = np.arange(frames)
    lids = np.zeros(frames)
    for at in (frames // 4, 3 * frames // 4):
        lids[at - 1 : at + 3] = (0.5, 1.0, 0.9, 0.4)
    smile, brows = 0.4 + 0.35 * np.sin(t / 4.3 + 1), 0.35 + 0.3 * np.sin(t / 3.1)
    return {
        "jawOpen": 0.22 + 0.18 * np.sin(t / 2.1), "mouthSmileLeft": smile, "mouthSmileRight": smile,
        "browInnerUp": brows, "browOuterUpLeft": brows, "browOuterUpRight": brows,
        "eyeBlinkLeft": lids, "eyeBlinkRight": lids,
    }  # fmt: skip


def film(seed: int, frames: int, size: int) -> Truth:
    """Person `seed` before a background; yaw goes to both sides by 0.25 radians."""
    people = People(seed, size)
    rng = np.random.default_rng([seed, 77])
    person = people.person(rng)
    background = draw_background(rng, size)
    units = moving_units(frames)
    expression = np.stack([people.head.weights(**{k: float(v[t]) for k, v in units.items()}) for t in range(frames)])
    t = np.arange(frames)
    euler = np.stack([0.06 * np.sin(t / 5), 0.25 * np.sin(t / 4.7), 0.04 * np.sin(t / 7)], 1)
    torso = np.array([0.0, 0.05, -1.5])
    trans = np.stack([PIVOT + torso - rotation(e) @ PIVOT for e in euler])
    pictures, vertices = [], []
    for k in range(frames):
        pose = Pose(euler[k], trans[k], np.zeros(3), torso)
        picture = people.renderer.draw(person, expression[k], pose, int(1.5 * size))
        pictures.append(people.develop(picture, background)["image"])
        vertices.append(picture.vertices)
    return Truth(np.stack(pictures), expression, euler, trans, np.stack(vertices))


def write(path, frames, sound=None, preset="ultrafast"):
    """Writes frames [t, h, w, 3], with sound at 16 kHz where given; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    with video.VideoWriter(path, (width, height), 25, audio=sound, preset=preset) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def part(source, kind, path):
    """Copies only the pictures or only the sound of a file, undecoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as whole, av.open(str(path), "w") as out:
        stream = whole.streams.video[0] if kind == "video" else whole.streams.audio[0]
        copy = out.add_stream_from_template(stream)
        for packet in whole.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    return path
