"""Neck and torso of a photograph that follow its head: moved in the plane, with the mesh's neck behind them."""

import cv2
import numpy as np
from scipy import ndimage

from data_pipelines.head import project
from r3p.backdrop import fill_holes
from r3p.camera import CAMERA_DISTANCE, rotation
from r3p.matting import TORSO, Layers
from r3p.puppet_draw import Buffer, Surface, laid, sample
from r3p.puppet_sample import PIVOT
from r3p.puppet_shape import Shape, unproject
from r3p.puppet_skin import NECK_SLIM

_GRID = 33
_NECK_SHADE = 0.94


class Torso:
    """The layer between background and head.

    left_over [s, s] 0..1: pixels of head classes that the head's layer does not draw (skin beyond the mesh's jaw): they
    count as neck. neck: the mesh's neck in `sheet`, with alpha in the tag. static [v] 0..1: 1 stays, 0 goes with the
    head.
    """

    def __init__(
        self,
        shape: Shape,
        image: np.ndarray,
        layers: Layers,
        landmarks: np.ndarray,
        left_over: np.ndarray,
        neck: Surface,
        sheet: np.ndarray,
        static: np.ndarray,
    ) -> None:
        self.shape, self.layers, self.landmarks, self.side = shape, layers, landmarks, len(image)
        self.neck, self.sheet, self.static = neck, sheet, static.astype(np.float32)[:, None]
        self._whole = self._extended(image, left_over)
        self._sizes: dict[int, np.ndarray] = {}

    def _frame(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Chin [2], direction from it to the hairline [2], the face's height in pixels."""
        chin, brow = self.landmarks[152, :2], self.landmarks[10, :2]
        height = float(np.linalg.norm(brow - chin))
        return chin, (brow - chin) / height, height

    def _extended(self, image: np.ndarray, left_over: np.ndarray) -> np.ndarray:
        """[s, s, 4] float32 premultiplied, 0..255: the torso with the left-over skin, without what would stand beside a
        head that turns away: of the extension under the head only the neck and a narrow rim stay."""
        torso = np.isin(self.layers.segmap, TORSO)
        chin, axis, height = self._frame()
        y, x = np.mgrid[: self.side, : self.side] + 0.5
        aside = np.abs(-(x - chin[0]) * axis[1] + (y - chin[1]) * axis[0])
        jaw = 0.5 * float(np.linalg.norm(self.landmarks[172, :2] - self.landmarks[397, :2]))
        near = np.clip(1.5 - ndimage.distance_transform_edt(~torso) / (0.02 * height), 0, 1)
        keep = np.maximum(near, np.clip((0.92 * jaw - aside) / (0.08 * jaw), 0, 1))[..., None]
        whole = np.dstack([self.layers.torso, self.layers.torso_alpha * 255]) * keep
        rest = left_over > 0.5
        if rest.any():
            # At the head's edge goes on what lies a little outside of it, else the chin's edge would stay on the neck.
            far = ndimage.binary_erosion(rest | torso, iterations=2) & rest
            known = far if far.any() else rest
            colour = np.where(known[..., None], image, fill_holes(image, known))
            skin = np.dstack([colour, np.full(torso.shape, 255)])
            whole = whole + (skin - whole) * left_over[..., None]
        return whole.astype(np.float32)

    def flow(self, euler: np.ndarray, trans: np.ndarray, size: int) -> np.ndarray:
        """[size, size, 2] pixels: where its parts move, all of the skull's way at the jaw, nothing at the shoulders."""
        chin, axis, height = self._frame()
        chin, height = chin / self.side, height / self.side
        u = np.stack(np.meshgrid(np.linspace(0, 1, _GRID), np.linspace(0, 1, _GRID)), -1).reshape(-1, 2)
        depth = CAMERA_DISTANCE - self.shape.pose(PIVOT[None] + [0, 0, 0.3])[0, 2]
        points = self.shape.unpose(unproject(u, np.full(len(u), depth)))
        moved = project(points @ rotation(np.asarray(euler, np.float64)).T + np.asarray(trans, np.float64)) - u
        below = -((u - chin) @ axis)
        down = np.clip((below + 0.12 * height) / (0.75 * height), 0, 1)
        aside = np.clip((np.abs(-(u - chin)[:, 0] * axis[1] + (u - chin)[:, 1] * axis[0]) / height - 0.35) / 0.7, 0, 1)
        weight = (1 - down * down * (3 - 2 * down)) * (1 - aside * aside * (3 - 2 * aside))
        flow = (moved * weight[:, None]).reshape(_GRID, _GRID, 2).astype(np.float32) * size
        # Read at the target, the flow has to be that of the place it came from.
        y, x = np.mgrid[:_GRID, :_GRID].astype(np.float32)
        here = flow
        for _ in range(2):
            back = here * np.float32((_GRID - 1) / size)
            here = cv2.remap(
                flow, x - back[..., 0], y - back[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        return cv2.resize(here, (size, size), interpolation=cv2.INTER_LINEAR)

    def draw(self, vertices: np.ndarray, euler: np.ndarray, trans: np.ndarray, size: int) -> np.ndarray:
        """The layer [size, size, 4] float32 premultiplied, 0..255. vertices [v, 3]: the head's, head frame."""
        if size not in self._sizes:
            small = cv2.resize(self._whole, (size, size), interpolation=cv2.INTER_AREA)
            self._sizes[size] = np.round(small).astype(np.uint8)
        flow = self.flow(euler, trans, size)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        front = cv2.remap(
            self._sizes[size], x - flow[..., 0], y - flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        ).astype(np.float32)
        return front + (1 - front[..., 3:] * np.float32(1 / 255)) * self._draw_neck(vertices, euler, trans, size)

    def _draw_neck(self, vertices: np.ndarray, euler: np.ndarray, trans: np.ndarray, size: int) -> np.ndarray:
        slim = vertices * NECK_SLIM
        turned = slim @ rotation(np.asarray(euler, np.float64)).T + np.asarray(trans, np.float64)
        posed = turned * (1 - self.static) + self.shape.pose(slim) * self.static
        buffer = Buffer(size)
        buffer.draw(np.concatenate([posed, posed]), self.neck, cull=True)
        colour = sample(self.sheet, buffer.at)[..., :3] * np.float32(_NECK_SHADE)
        out = laid(colour, buffer.at[..., 2] * buffer.hit)
        return cv2.GaussianBlur(out, (3, 3), 0.7)
