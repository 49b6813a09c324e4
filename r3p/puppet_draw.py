"""Drawing of textured meshes on the host: OpenCV's rasteriser, sheets of texels, premultiplied layers."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from r3p.camera import CAMERA_DISTANCE, FOCAL

NEAR, FAR = 2.0, 40.0  # distances from the camera that are drawn, head units


@dataclass
class Surface:
    """Triangles int32 [t, 3] with three attributes a vertex, float32 [n, 3]: sheet x, sheet y (texels), tag."""

    triangles: np.ndarray
    attributes: np.ndarray

    def __post_init__(self) -> None:
        self.triangles = np.ascontiguousarray(self.triangles, np.int32)
        self.attributes = np.ascontiguousarray(self.attributes, np.float32)


def window(points: np.ndarray, size: int, margin: int = 2) -> tuple[slice, slice]:
    """Rows and columns of a square picture that hold points [n, 2] of continuous pixels, at least one of each."""
    lo = np.clip(np.floor(points.min(0)).astype(int) - margin, 0, size - 1)
    hi = np.clip(np.ceil(points.max(0)).astype(int) + margin, lo + 1, size)
    return slice(int(lo[1]), int(hi[1])), slice(int(lo[0]), int(hi[0]))


class Buffer:
    """A window (rows and columns, default all) of a square picture: attributes `at` [h, w, 3] and distance `depth`
    [h, w] of the nearest surface."""

    def __init__(self, size: int, area: tuple[slice, slice] | None = None) -> None:
        rows, columns = (slice(0, size), slice(0, size)) if area is None else area
        h, w = rows.stop - rows.start, columns.stop - columns.start
        self.at = np.zeros((h, w, 3), np.float32)
        self.depth = np.full((h, w), FAR, np.float32)
        self._pixels = FOCAL * size  # focal length
        # The window's middle comes onto the axis by a shear along the viewing direction.
        self._shear = np.array([size - columns.start - columns.stop, rows.start + rows.stop - size]) / (
            2 * self._pixels
        )

    def draw(self, posed: np.ndarray, surface: Surface, *, cull: bool) -> None:
        """Draws what is nearer than what is there. posed [n, 3] camera frame; cull: front faces only."""
        if not len(surface.triangles):
            return
        settings = cv2.TriangleRasterizeSettings()
        settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
        settings.setCullingMode(cv2.RASTERIZE_CULLING_CW if cull else cv2.RASTERIZE_CULLING_NONE)
        points = np.array(posed, np.float32, order="C")
        points[:, :2] += (CAMERA_DISTANCE - points[:, 2:]) * self._shear.astype(np.float32)
        world = np.eye(4, dtype=np.float32)
        world[2, 3] = -CAMERA_DISTANCE
        cv2.triangleRasterize(
            points,
            surface.triangles,
            surface.attributes,
            self.at,
            self.depth,
            world,
            2 * math.atan(len(self.at) / (2 * self._pixels)),
            NEAR,
            FAR,
            settings,
        )

    @property
    def hit(self) -> np.ndarray:
        """Where anything was drawn."""
        return self.depth < FAR - 1e-3


def sample(sheet: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear texels of a uint8 sheet at continuous coordinates at [h, w, >= 2]."""
    return cv2.remap(
        sheet,
        at[..., 0] - np.float32(0.5),
        at[..., 1] - np.float32(0.5),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def sample_list(sheet: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`sample` of a list of coordinates [n, >= 2] -> [n, c]; in rows, as OpenCV takes no picture wider than 32766."""
    width = 4096
    rows = -(-len(at) // width)
    padded = np.zeros((rows * width, 2), np.float32)
    padded[: len(at)] = at[:, :2]
    return (
        sample(sheet, padded.reshape(rows, width, 2)).reshape(-1, sheet.shape[-1])[: len(at)]
        if rows
        else np.zeros((0, sheet.shape[-1]), np.uint8)
    )


def laid(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Straight colours [..., >= 3] of 0..255 and alpha [...] of 0..1 -> premultiplied float32 [..., 4] of 0..255."""
    out = np.empty((*alpha.shape, 4), np.float32)
    out[..., :3] = colour[..., :3]
    out[..., 3] = 255
    out *= alpha[..., None]
    return out


def cover(out: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Lays straight colours [h, w, 3] with alpha [h, w] in 0..1 over a premultiplied layer out [h, w, 4] of 0..255."""
    out *= (1 - alpha)[..., None]
    out += laid(colour, alpha)


def quads(rows: int, columns: int) -> np.ndarray:
    """[q, 4] corners of a grid's cells, counter-clockwise to a viewer with y up, rows downward."""
    n = np.arange(rows * columns).reshape(rows, columns)
    return np.stack([n[:-1, :-1], n[1:, :-1], n[1:, 1:], n[:-1, 1:]], -1).reshape(-1, 4)


def halves(corners: np.ndarray) -> np.ndarray:
    """Quads [q, 4] -> triangles [2 q, 3]."""
    return np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])
