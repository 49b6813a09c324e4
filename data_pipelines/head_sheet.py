"""Contact sheets of the head model: mean, random people, units, landmarks."""

from pathlib import Path

import cv2
import numpy as np

from data_pipelines.head_landmarks import Surface, random_look, render
from r3p.camera import rotation

SIZE, SHEET_FOCAL = 300, 3.0
BACK = np.array([0, 0, -0.6])  # moves the heads away from the camera


def draw_sheets(arrays: dict[str, np.ndarray], folder: Path, rng: np.random.Generator) -> None:
    """Writes people.png (mean and random identities), units.png (each expression axis) and landmarks.png."""
    folder.mkdir(parents=True, exist_ok=True)
    identity, expression = (arrays[k].astype(np.float32) for k in ("identity", "expression"))
    names = [str(n) for n in arrays["expression_names"]]
    mean = arrays["mean"]

    def picture(
        vertices: np.ndarray, yaw: float, look: dict[str, np.ndarray], focal: float = SHEET_FOCAL, size: int = SIZE
    ) -> np.ndarray:
        return render(arrays, vertices @ rotation(np.array([0, yaw, 0])).T + BACK, look, size, focal)

    rows = []
    for row in range(4):
        tiles = []
        for column in range(6):
            who = rng.normal(size=len(identity)) * (row + column > 0)
            tiles.append(picture(mean + np.tensordot(who, identity, 1), (0, -0.4, 0.4)[column % 3], random_look(rng)))
        rows.append(np.concatenate(tiles, 1))
    save(folder / "people.png", np.concatenate(rows))

    look = random_look(np.random.default_rng(3))
    tiles = []
    for name, axis in zip(names, expression, strict=True):
        tile = np.ascontiguousarray(picture(mean + axis, 0.0, look, 4.2, 200))
        tiles.append(cv2.putText(tile, name, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 0), 1, cv2.LINE_AA))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 11)
    save(folder / "units.png", np.concatenate([np.concatenate(tiles[i : i + 11], 1) for i in range(0, len(tiles), 11)]))

    corner = arrays["triangles"].astype(int)[arrays["landmarks_mp_triangle"]]
    points = Surface(corner, arrays["landmarks_mp_bary"].astype(float))
    big, focal = 1000, 5.0
    tiles = []
    for axis, yaw in ((None, 0.0), ("jawOpen", 0.0)):
        vertices = mean + (0 if axis is None else 0.5 * expression[names.index(axis)])
        tile = np.ascontiguousarray(picture(vertices, yaw, look, focal, big))
        p = points(vertices) + BACK
        xy = np.stack([0.5 + focal * p[:, 0] / (10 - p[:, 2]), 0.5 - focal * p[:, 1] / (10 - p[:, 2])], 1) * big
        for k, (x, y) in enumerate(xy):
            cv2.circle(tile, (int(x), int(y)), 2, (0, 0, 255), -1)
            cv2.putText(tile, str(k), (int(x) + 2, int(y)), cv2.FONT_HERSHEY_SIMPLEX, 0.25, (0, 60, 0), 1, cv2.LINE_AA)
        tiles.append(tile)
    save(folder / "landmarks.png", np.concatenate(tiles, 1))


def save(path: Path, rgb: np.ndarray) -> None:
    """Writes a picture, or fails."""
    if not cv2.imwrite(str(path), rgb[..., ::-1]):
        raise OSError(f"cannot write {path}")
