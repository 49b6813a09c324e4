"""Where everything is painted: one texture canvas shared by all people, laid out once on the mean head.

The face occupies a square of the canvas, unrolled round the head's axis (azimuth, height), denser in front, so that
whatever is painted there follows identity and expression with the mesh. Eyes, teeth, tongue have their own patches.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.head import (
    LEFT_EYE,
    LOWER_TEETH,
    RIGHT_EYE,
    SKIN,
    TONGUE,
    UPPER_TEETH,
    Head,
    rasterize,
    vertex_normals,
)

FACE = 512  # pixels of the square that holds the unrolled skin
WIDTH = 768  # of the whole canvas; patches of 128 lie right of the face
PATCH = 128
EYE_AT, TEETH_AT, TONGUE_AT, PLAIN_AT = (512, 0), (640, 0), (512, 128), (640, 128)  # column, row of the patches
AXIS_Z = -0.78  # depth of the axis the skin is unrolled around
_KNOTS_Y = [1.6, 1.25, -1.05, -2.6, -4.0]  # height in head units -> row of the face square
_KNOTS_V = [0.0, 0.02, 0.84, 0.985, 1.0]

# MediaPipe point numbers of outlines, in order along the curve.
LIPS_OUTER = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146]
LIPS_INNER = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95]
EYE_UPPER = ([33, 246, 161, 160, 159, 158, 157, 173, 133], [263, 466, 388, 387, 386, 385, 384, 398, 362])
EYE_LOWER = ([33, 7, 163, 144, 145, 153, 154, 155, 133], [263, 249, 390, 373, 374, 380, 381, 382, 362])
BROW_UPPER = ([70, 63, 105, 66, 107], [300, 293, 334, 296, 336])
BROW_LOWER = ([46, 53, 52, 65, 55], [276, 283, 282, 295, 285])
JAW = [127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356]


def unroll(points: np.ndarray) -> np.ndarray:
    """Points [n, 3] of the mean head -> face-square coordinates [n, 2] in 0..1 (column, row)."""
    azimuth = np.arctan2(points[:, 0], points[:, 2] - AXIS_Z)
    row = np.interp(-points[:, 1], -np.array(_KNOTS_Y), _KNOTS_V)
    return np.stack([0.5 + 0.5 * np.sin(azimuth / 2), row], 1)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Random field [h, w] float32 of unit scale with about `cells` (rows, columns) bumps."""
    small = rng.standard_normal((max(cells[0], 2), max(cells[1], 2))).astype(np.float32)
    return cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def occlusion(vertices: np.ndarray, triangles: np.ndarray, directions: int = 96) -> np.ndarray:
    """Share of the sky each vertex sees [v], 0..1: depth maps from directions all round, cosine-weighted."""
    normals = vertex_normals(vertices, triangles)
    total = np.zeros(len(vertices))
    seen = np.zeros(len(vertices))
    for k in range(directions):
        y = 1 - 2 * (k + 0.5) / directions
        angle = 2.399963 * k
        view = np.array([np.sqrt(1 - y * y) * np.cos(angle), y, np.sqrt(1 - y * y) * np.sin(angle)])
        cosine = np.clip(normals @ view, 0, 1)
        lit = lit_share(vertices, triangles, view, vertices, size=160, bias=0.04)
        total += cosine
        seen += cosine * lit
    return (seen / np.maximum(total, 1e-6)).astype(np.float32)


def light_frame(direction: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] whose third row is `direction` (unit, toward the light)."""
    z = direction / np.linalg.norm(direction)
    x = np.cross([0.0, 1.0, 0.01], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def lit_share(
    vertices: np.ndarray,
    triangles: np.ndarray,
    direction: np.ndarray,
    points: np.ndarray,
    size: int = 160,
    bias: float = 0.06,
    blur: float = 0.0,
) -> np.ndarray:
    """How much of a far light in `direction` reaches each point [n], 0..1, from a depth map of the mesh.

    `blur` is the half width of the penumbra in head units: the comparison is averaged over five places of the map.
    """
    frame = light_frame(direction)
    spread = 2.9
    far = 60.0
    mesh = vertices @ frame.T
    depth = far - mesh[:, 2]
    # a long lens makes the perspective rasteriser orthographic: x grows with the distance it is divided by
    flat = np.stack([mesh[:, 0] * depth, mesh[:, 1] * depth, 10.0 - depth], 1)
    _, buffer = rasterize(flat, triangles, [], size, focal=0.5 / spread, depth_range=(far - 8, far + 8))
    p = points @ frame.T
    column = (p[:, 0] / (2 * spread) + 0.5) * size
    row = (0.5 - p[:, 1] / (2 * spread)) * size
    own = far - p[:, 2] - bias
    step = blur * size / (2 * spread)
    offsets = [(0, 0)] if blur == 0 else [(0, 0), (step, 0), (-step, 0), (0, step), (0, -step)]
    lit = np.zeros(len(points), np.float32)
    for dx, dy in offsets:
        i = np.clip((row + dy).astype(int), 0, size - 1)
        j = np.clip((column + dx).astype(int), 0, size - 1)
        lit += buffer[i, j] > own
    return lit / len(offsets)


@dataclass(frozen=True)
class Canvas:
    """Painting places common to all people. uv in canvas pixels; masks [FACE, FACE] float32 0..1."""

    uv: np.ndarray  # [v, 2] canvas pixels of every vertex of the head
    face_weight: np.ndarray  # [v] 1 face-skin, 0 neck (body-skin), for skin vertices
    static: np.ndarray  # [v] 0 moves with the head, 1 stays with the torso
    shade: np.ndarray  # [v] baked share of ambient light
    points: np.ndarray  # [468, 2] MediaPipe points in the face square, pixels
    lips: np.ndarray
    beard: np.ndarray
    cheeks: np.ndarray
    nose: np.ndarray
    lids: np.ndarray
    position: np.ndarray  # [FACE, FACE, 3] mean-head position of each texel (0 where no skin)
    ears: np.ndarray  # [v] bool
    grain: np.ndarray  # [2 FACE, 2 FACE] float32, fine noise of unit scale to cut pieces from
    pupil: float  # iris radius in the eye patch, share of its half width


def fine_noise(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """Pore-sized noise [FACE, FACE] of unit scale: a random piece of the canvas's store, quicker than new noise."""
    y, x = rng.integers(0, FACE, 2)
    piece = canvas.grain[y : y + FACE, x : x + FACE]
    return piece[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


def polygon(points: np.ndarray, size: int = FACE, blur: float = 0.0) -> np.ndarray:
    """Filled anti-aliased polygon mask [size, size] 0..1 from pixel points [n, 2]."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    out = mask.astype(np.float32) / 255
    return cv2.GaussianBlur(out, (0, 0), blur) if blur else out


def build_canvas(head: Head) -> Canvas:
    """Lay the canvas out on the mean head (about half a second)."""
    mean, part = head.mean, head.part
    uv = unroll(mean) * FACE
    iris = 0.0
    for label in (LEFT_EYE, RIGHT_EYE):
        own = part == label
        centre = 0.5 * (mean[own].min(0) + mean[own].max(0))
        radius = 0.5 * np.ptp(mean[own][:, 0])
        uv[own] = np.array(EYE_AT) + PATCH / 2 * (1 + 0.95 * (mean[own] - centre)[:, :2] / radius * [1, -1])
        iris = 0.95 * 0.059 / radius  # the human iris is 11.8 mm wide
    for label, at in ((UPPER_TEETH, TEETH_AT), (LOWER_TEETH, TEETH_AT), (TONGUE, TONGUE_AT)):
        own = part == label
        low, high = mean[own].min(0), mean[own].max(0)
        place = (mean[own] - low) / (high - low)
        rows = (
            0.5 * (1 - place[:, 1])
            if label == UPPER_TEETH
            else 0.5 + 0.5 * place[:, 1]
            if label == LOWER_TEETH
            else 1 - place[:, 2]
        )
        uv[own] = np.array(at) + 4 + (PATCH - 8) * np.stack([place[:, 0], rows], 1)
    points3 = head.landmarks(mean)
    points = unroll(points3) * FACE
    skin = part == SKIN
    tri = head.triangles[skin[head.triangles[:, 0]]]
    flat = np.concatenate([uv / FACE - 0.5, np.zeros((len(uv), 1))], 1) * [1, -1, 1]
    depth = 100 - np.hypot(mean[:, 0], mean[:, 2] - AXIS_Z)
    flat = np.stack([flat[:, 0] * depth, flat[:, 1] * depth, 10 - depth], 1)
    wrap = np.ptp(uv[tri][:, :, 0], axis=1) < FACE / 2
    (position,), _ = rasterize(flat, tri[wrap], [mean], FACE, focal=1.0, depth_range=(90, 110))

    ears = skin & (head.arrays["mask_ears"] > 0.3)
    # face-skin ends a little below the jaw's outline and at the lobes' height behind
    jaw = points3[JAW]
    order = np.argsort(np.arctan2(jaw[:, 0], jaw[:, 2] - AXIS_Z))
    azimuth = np.arctan2(mean[:, 0], mean[:, 2] - AXIS_Z)
    limit = np.interp(azimuth, np.arctan2(jaw[:, 0], jaw[:, 2] - AXIS_Z)[order], jaw[order, 1] - 0.06)
    limit = np.minimum(limit, -0.42)  # behind the jaw: the lobes' height
    face_weight = np.clip(0.5 + (mean[:, 1] - limit) / 0.12, 0, 1).astype(np.float32)
    face_weight[ears] = 1
    shade = occlusion(mean, head.triangles)
    shade[part != SKIN] = 1.0
    lips = polygon(points[LIPS_OUTER], blur=1.2)
    span = points[454, 0] - points[234, 0]
    yy, xx = np.mgrid[:FACE, :FACE].astype(np.float32)

    def spot(index: int, wide: float, high: float) -> np.ndarray:
        x, y = points[index]
        return np.exp(-((xx - x) ** 2) / (2 * (wide * span) ** 2) - (yy - y) ** 2 / (2 * (high * span) ** 2))

    cheeks = spot(205, 0.09, 0.09) + spot(425, 0.09, 0.09)
    nose = spot(4, 0.06, 0.05)
    jawline = np.concatenate([points[JAW[2:-2]], points[[425, 410, 393, 2, 167, 186, 205]]])
    beard = polygon(jawline, blur=7.0)
    under = (
        (position[..., 1] < -0.55) & (position[..., 1] > -1.15) & (position[..., 2] > -0.63) & (position[..., 1] != 0)
    )
    beard = np.maximum(beard, cv2.GaussianBlur(under.astype(np.float32), (0, 0), 9)) * (
        1 - polygon(points[LIPS_OUTER], blur=2.0)
    )
    lids = sum(
        polygon(np.concatenate([points[b], points[u][::-1]]), blur=6.0)
        for b, u in zip(BROW_LOWER, EYE_LOWER, strict=True)
    )
    static = head.arrays["static"].astype(np.float32)
    white = np.random.default_rng(0).standard_normal((2 * FACE, 2 * FACE), dtype=np.float32)
    grain = np.asarray(cv2.GaussianBlur(white, (0, 0), 0.8))
    return Canvas(
        uv.astype(np.float32), face_weight, static, shade, points.astype(np.float32), lips, beard,
        np.clip(cheeks, 0, 1), nose, np.clip(lids, 0, 1), position, ears, grain / grain.std(), float(iris),
    )  # fmt: skip
