"""What is seen through lids and lips: eyeballs, teeth, tongue, the mouth's walls, and the photograph's own mouth."""

import cv2
import numpy as np

from data_pipelines.head import Head, project
from r3p.camera import CAMERA_DISTANCE
from r3p.puppet_draw import Buffer, Surface, cover, halves, quads, sample, window
from r3p.puppet_shape import OUTER_LIPS, Shape, polygon, unproject
from r3p.puppet_texture import SCALE, Block, enlarge, eye_block, mouth_block, mouth_tones, teeth_sheet

_LEFT_EYE, _RIGHT_EYE, _UPPER_TEETH, _LOWER_TEETH, _TONGUE = range(1, 6)
_BEHIND = 0.04  # head units from the lips' rim to the sheet that shows the photograph's teeth


class Inside:
    """Sheet and surfaces of one photograph's eyes and mouth.

    cavity: triangles of the mouth's walls; pixels [v, 2]: the vertices in the photograph.
    """

    def __init__(
        self, head: Head, shape: Shape, image: np.ndarray, landmarks: np.ndarray, pixels: np.ndarray, cavity: np.ndarray
    ) -> None:
        self.head, self.shape = head, shape
        blocks, origins = [], []
        for eye in (0, 1):
            origin, colours = eye_block(image, landmarks, eye)
            blocks.append(enlarge(colours))
            origins.append(origin)
        white = np.mean([np.quantile(b.reshape(-1, 3), 0.85, axis=0) for b in blocks], 0).astype(np.float32)
        tones = mouth_tones(image, landmarks, landmarks[polygon(OUTER_LIPS), :2], white)
        self.line = tones.lips * np.float32(0.62)
        mouth = mouth_block(image, landmarks)
        swatch = np.repeat(np.clip([tones.tongue, tones.cavity], 0, 255), 16, 0)[None].repeat(16, 0)
        teeth = teeth_sheet(tones.teeth, tones.lips)
        blocks += [enlarge(mouth.colours), enlarge(mouth.colours), teeth, np.round(swatch).astype(np.uint8)]
        self.sheet = np.zeros((max(len(b) for b in blocks), sum(b.shape[1] + 4 for b in blocks), 4), np.uint8)
        corner, x = [], 0
        for b in blocks:
            self.sheet[: len(b), x : x + b.shape[1]] = np.dstack([b, np.full(b.shape[:2], 255, np.uint8)])
            corner.append(x)
            x += b.shape[1] + 4

        part = head.part
        at = np.zeros((len(head.mean), 3), np.float32)
        for eye, label in ((0, _RIGHT_EYE), (1, _LEFT_EYE)):
            own = part == label
            block = Block(origins[eye], (blocks[eye].shape[1], len(blocks[eye])), (corner[eye], 0))
            at[own] = np.concatenate([block.coordinates(pixels[own]), np.ones((int(own.sum()), 1))], 1)
        self._dress_teeth(at, corner[4], blocks[4].shape[1], len(blocks[4]))
        self._dress_walls(at, cavity, corner[5])
        label = part[head.triangles[:, 0]]
        walls = np.concatenate([head.triangles[label >= _UPPER_TEETH], cavity])
        self.surfaces = {
            "outer_lips": Surface(walls, at),
            "left_eye": Surface(head.triangles[label == _LEFT_EYE], at),
            "right_eye": Surface(head.triangles[label == _RIGHT_EYE], at),
        }
        self._jaw = shape.source[part == _LOWER_TEETH].mean(0)
        self.shown = [
            self._patch(Block(mouth.origin, (blocks[k].shape[1], len(blocks[k])), (corner[k], 0)), alpha, len(image))
            for k, alpha in ((3, mouth.lower), (2, mouth.upper))
        ]

    def _dress_teeth(self, at: np.ndarray, corner: int, width: int, height: int) -> None:
        """Texels along the arch; darker toward the back."""
        part, mean = self.head.part, self.head.mean
        front = mean[part == _UPPER_TEETH, 2].max()
        for label in (_UPPER_TEETH, _LOWER_TEETH):
            own = part == label
            p = mean[own]
            along = np.arctan2(p[:, 0], p[:, 2] - (front - 0.28)) / np.radians(105)
            level = (p[:, 1] - p[:, 1].min()) / max(np.ptp(p[:, 1]), 1e-6)
            level = 1 - level if label == _UPPER_TEETH else level
            tag = np.clip(np.exp(-(front - p[:, 2]) / 0.3), 0.25, 1) * (0.92 if label == _UPPER_TEETH else 0.78)
            at[own] = np.stack(
                [np.clip((along + 1) / 2, 0.01, 0.99) * width + corner, np.clip(level, 0.02, 0.98) * height, tag], 1
            )

    def _dress_walls(self, at: np.ndarray, cavity: np.ndarray, corner: int) -> None:
        """Tongue and walls in one tone each, darker with the depth behind the lips."""
        head, mean = self.head, self.head.mean
        walls = np.zeros(len(mean), bool)
        walls[cavity] = True
        lips = mean[head.arrays["loop_inner_lips"].astype(int), 2].max()
        tongue = head.part == _TONGUE
        tip, top = mean[tongue, 2].max(), mean[tongue, 1].max()
        for own, k in ((tongue, 0), (walls & (head.part == 0), 1)):
            deep = np.maximum(lips - 0.10 - mean[own, 2], 0)
            tag = np.clip(np.exp(-deep / 0.35), 0.3, 0.9)
            if k == 0:  # the light comes over the lower lip: the tip is bright, the back and the sides are not
                wide = np.abs(mean[own, 0]) / np.abs(mean[own, 0]).max()
                low = (1 - 0.6 * (top - mean[own, 1]) / 0.3).clip(0.3, 1)
                tag = (0.85 * np.exp(-(tip - mean[own, 2]) / 0.4) * low * (1 - 0.55 * wide**2)).clip(0.12, 1)
            at[own] = np.stack([np.full(len(tag), corner + 16 * k + 8.0), np.full(len(tag), 8.0), tag], 1)

    def _patch(self, block: Block, alpha: np.ndarray, side: int) -> tuple[np.ndarray, Surface]:
        """A part of the photograph's mouth as a sheet just behind the lips: vertices in the head's frame, surface."""
        self.sheet[block.slices][..., 3] = np.round(enlarge(alpha).clip(0, 1) * 255)
        columns, rows = 16, 8
        u, v = np.meshgrid(np.linspace(0, block.size[0], columns), np.linspace(0, block.size[1], rows))
        grid = np.stack([u, v], -1).reshape(-1, 2) / SCALE + block.origin
        loop = self.shape.pose(self.shape.source[self.head.arrays["loop_inner_lips"].astype(int)])
        at = project(loop)[:, 0] * side
        line = np.polynomial.Polynomial.fit(at, CAMERA_DISTANCE - loop[:, 2], 4)
        depth = line(np.clip(grid[:, 0], at.min(), at.max())) + _BEHIND
        vertices = self.shape.unpose(unproject(grid / side, depth)).astype(np.float32)
        return vertices, Surface(
            halves(quads(rows, columns)), np.concatenate([block.coordinates(grid), np.ones((len(grid), 1))], 1)
        )

    def draw(
        self,
        out: np.ndarray,
        start: tuple[int, int],
        size: int,
        vertices: np.ndarray,
        turn: np.ndarray,
        shift: np.ndarray,
    ) -> None:
        """Lays the inside over a window out [h, w, 4] (premultiplied), within the outlines of lips and lids.

        start: the window's first row and column in the picture of side `size`; vertices [v, 3]: head frame, which
        `vertices @ turn + shift` takes to the camera's.
        """
        posed = vertices @ turn + shift
        dropped = vertices[self.head.part == _LOWER_TEETH].mean(0) - self._jaw
        loops = {
            n: (project(posed[self.head.arrays[f"loop_{n}"].astype(int)]) * size).astype(np.float32)
            for n in ("outer_lips", "inner_lips", "left_eye", "right_eye")
        }
        for name, surface in self.surfaces.items():
            rows, columns = window(loops[name], size, 3)
            area = (
                slice(max(rows.start - start[0], 0), rows.stop - start[0]),
                slice(max(columns.start - start[1], 0), columns.stop - start[1]),
            )
            shape = out[area].shape[:2]
            if 0 in shape:
                continue
            lo = np.array([area[1].start + start[1], area[0].start + start[0]], np.float32)
            place = (slice(int(lo[1]), int(lo[1]) + shape[0]), slice(int(lo[0]), int(lo[0]) + shape[1]))
            buffer = Buffer(size, place)
            buffer.draw(posed, surface, cull=False)
            colour = sample(self.sheet, buffer.at)[..., :3] * buffer.at[..., 2:]
            colour[~buffer.hit] = self.line * np.float32(0.6)  # a corner that no eyeball fills, the throat
            if name == "outer_lips":
                # Lips shade what is just behind them.
                gap = _polygon(loops["inner_lips"] - lo, shape).astype(np.float32)
                wide = cv2.GaussianBlur(gap, (0, 0), max(0.06 * shape[1], 0.5))[..., None]
                colour *= 0.45 + 0.6 * wide.clip(0, 0.92)
                # A slit between lips that all but meet is a line of their own colour.
                colour += (self.line - colour) * (1 - 4 * wide).clip(0, 1)
            hull = cv2.convexHull((loops[name] - lo).astype(np.float32))[:, 0]
            mask = cv2.dilate(_polygon(hull, shape), np.ones((3, 3), np.uint8)).astype(np.float32)
            cover(out[area], colour, mask)
            if name == "outer_lips":
                for (points, patch), moved in zip(self.shown, (dropped, 0), strict=True):
                    front = Buffer(size, place)
                    front.draw((points + moved) @ turn + shift, patch, cull=False)
                    texel = sample(self.sheet, front.at)
                    cover(out[area], texel, mask * front.hit * texel[..., 3] * np.float32(1 / 255))


def _polygon(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w], 1 inside a polygon [n, 2] of continuous pixels."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round((points - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return mask
