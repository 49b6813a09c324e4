"""Finds MediaPipe's face landmarks on the head model: renders random people and asks the landmark model.

A landmark's place is the surface point whose projections agree best, over all renders, with what the model says.
Points of the inner lips and the lids are confined to the loops of vertices where lips meet and lids end.
"""

from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from data_pipelines.head import project, rasterize, vertex_normals
from r3p.camera import CAMERA_DISTANCE, rotation
from r3p.detect import FaceFinder

POINTS = 468
PICTURE = 400  # pixels
FOCAL = 3.4  # image widths
# MediaPipe's contours from the person's right to left (image left to right).
UPPER_INNER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_INNER_LIP = (95, 88, 178, 87, 14, 317, 402, 318, 324)
UPPER_OUTER_LIP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LOWER_OUTER_LIP = (146, 91, 181, 84, 17, 314, 405, 321, 375)
RIGHT_LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (7, 163, 144, 145, 153, 154, 155))
LEFT_LIDS = ((362, 398, 384, 385, 386, 387, 388, 466, 263), (382, 381, 380, 374, 373, 390, 249))
MIDLINE = (
    10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 164, 0, 11, 12, 13, 14, 15, 16, 17, 18, 200, 199, 175, 152,
)  # fmt: skip
# iBUG's 68 points as indices of MediaPipe's.
IBUG_68 = (
    127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356,  # jaw
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 98, 97, 2, 326, 327,  # brows, nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 82, 13, 312, 308, 317, 14, 87,  # lips
)  # fmt: skip
BROW = np.array([(0.09, 0.305), (0.20, 0.335), (0.36, 0.36), (0.48, 0.32), (0.58, 0.26)])  # x, y of one brow's middle
IRIS_RADIUS = 0.058
REACH = 0.16  # head units around the first guess in which the best place is looked for
PEOPLE, VIEWS = 64, (-0.5, -0.25, 0.0, 0.0, 0.25, 0.5)


# Units of the rendered people and how far they go.
EXPRESSIONS = {
    "jawOpen": 0.45, "mouthSmile": 0.6, "eyeBlink": 0.4, "mouthPucker": 0.4, "mouthFunnel": 0.4, "eyeWide": 0.4,
    "mouthStretch": 0.3, "browInnerUp": 0.4,
}  # fmt: skip
Arrays = dict[str, np.ndarray]


class Surface:
    """A set of points fixed to triangles: corner [m, 3] vertex indices and bary [m, 3]."""

    def __init__(self, corner: np.ndarray, bary: np.ndarray) -> None:
        self.corner, self.bary = corner, bary

    def __call__(self, vertices: np.ndarray) -> np.ndarray:
        return np.einsum("mk,mkc->mc", self.bary, vertices[self.corner])

    def pick(self, index: np.ndarray) -> "Surface":
        return Surface(self.corner[index], self.bary[index])


def paint(arrays: Arrays, place: np.ndarray, normal: np.ndarray, look: dict[str, np.ndarray]) -> np.ndarray:
    """Colours [n, 3] in 0..1 of surface points.

    place [n, 5]: position on the mean head, part label, weight of the lips' mask; normal [n, 3] toward the viewer.
    """
    x, y, part, lips = np.abs(place[:, 0]), place[:, 1], place[:, 3], place[:, 4]
    colour = np.tile(look["skin"], (len(place), 1))
    height = np.interp(x, BROW[:, 0], BROW[:, 1])
    wide = np.interp(x, (0.05, 0.10, 0.3, 0.55, 0.62), (0, 0.05, 0.045, 0.018, 0))
    brow = np.clip(1.5 - np.abs(y - height) / np.maximum(wide, 1e-3), 0, 1)[:, None]
    brow *= ((wide > 1e-3) & (place[:, 2] > 0))[:, None]
    colour = colour * (1 - brow) + look["hair"] * brow
    colour += lips[:, None] * (look["lips"] - look["skin"])
    for side, label in ((1, 1), (-1, 2)):
        eye = arrays["mean"][arrays["part"] == label]
        centre = eye.mean(0)
        off = np.hypot(place[:, 0] - centre[0], y - centre[1])
        ball = np.where((off < IRIS_RADIUS)[:, None], look["iris"], 0.92)
        ball = np.where((off < 0.024)[:, None], 0.03, ball)
        colour = np.where(((np.abs(part - label) < 0.3) & (place[:, 0] * side > 0))[:, None], ball, colour)
    for least, tint in ((2.5, (0.85, 0.82, 0.75)), (4.5, (0.6, 0.35, 0.34))):  # teeth, tongue
        colour = np.where((part > least)[:, None], tint, colour)
    light = look["light"] / np.linalg.norm(look["light"])
    return np.clip(colour * (0.45 + 0.6 * np.clip(normal @ light, 0, 1))[:, None], 0, 1)


def render(arrays: Arrays, vertices: np.ndarray, look: dict[str, np.ndarray], size: int, focal: float) -> np.ndarray:
    """Picture uint8 [size, size, 3] of posed vertices [v, 3]; drawn at twice the size and averaged."""
    triangles = arrays["triangles"].astype(np.int32)
    lips = arrays["mask_lips"].astype(np.float32)
    part = arrays["part"].astype(np.float32)
    extra = np.stack([part, lips, np.ones_like(lips)], 1)
    attributes = [arrays["mean"], vertex_normals(vertices, triangles), extra]
    (place, normal, extra_image), _ = rasterize(vertices, triangles, attributes, 2 * size, focal)
    out = np.tile(look["background"], (2 * size, 2 * size, 1))
    hit = extra_image[..., 2] > 0.5
    out[hit] = paint(arrays, np.concatenate([place[hit], extra_image[hit][:, :2]], 1), normal[hit], look)
    return (cv2.resize(out.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) * 255).astype(np.uint8)


def random_look(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Colours and light of one person."""
    tone = rng.random()
    skin = np.array([0.93, 0.74, 0.64]) * (1 - tone) + np.array([0.42, 0.27, 0.2]) * tone
    return {
        "skin": skin, "lips": skin * [0.9, 0.62, 0.62] + [0.04, 0, 0.01], "hair": skin * rng.uniform(0.15, 0.45),
        "iris": np.array([0.25, 0.17, 0.1]) + rng.random() * np.array([0.1, 0.2, 0.25]),
        "light": np.array([rng.uniform(-0.6, 0.6), rng.uniform(0, 0.7), 1.0]), "background": rng.uniform(0.1, 0.8, 3),
    }  # fmt: skip


def random_expression(names: list[str], rng: np.random.Generator) -> np.ndarray:
    """Small random units [64], the same on both sides, with a mouth that is often open."""
    out = np.zeros(len(names))
    for name, top in EXPRESSIONS.items():
        if rng.random() < (0.7 if name == "jawOpen" else 0.25):
            for k, n in enumerate(names):
                if n.startswith(name):
                    out[k] = 0.0 if n.endswith("Right") else rng.uniform(0, top)
            for k, n in enumerate(names):
                if n.startswith(name) and n.endswith("Right"):
                    out[k] = out[names.index(n.replace("Right", "Left"))]
    return out


def observe(arrays: Arrays, models: Path, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Renders people and looks for their landmarks: posed vertices [n, v, 3] and points [n, 468, 2] in image widths."""
    finder = FaceFinder(models)
    names = [str(n) for n in arrays["expression_names"]]
    identity, expression = (arrays[k].astype(np.float32) for k in ("identity", "expression"))
    seen, points = [], []
    for number in range(PEOPLE):
        who = rng.normal(size=len(identity)).clip(-2, 2) * (0.8 if number else 0)
        for yaw in VIEWS:
            units = random_expression(names, rng)
            face = arrays["mean"] + np.tensordot(who, identity, 1) + np.tensordot(units, expression, 1)
            euler = np.array([rng.uniform(-0.15, 0.15), yaw + rng.uniform(-0.1, 0.1), rng.uniform(-0.05, 0.05)])
            posed = (face @ rotation(euler).T + [0, 0.08, -0.6]).astype(np.float32)
            picture = render(arrays, posed, random_look(rng), PICTURE, FOCAL)
            for found in finder.detect(picture, thorough=False)[:1]:
                face_seen = finder.landmarks(picture, found)
                if face_seen.score > 0.5:
                    seen.append(posed)
                    points.append(face_seen.landmarks[:POINTS, :2] / PICTURE)
    print(f"landmarks: a face in {len(seen)} of {PEOPLE * len(VIEWS)} renders", flush=True)
    return np.stack(seen), np.stack(points)


def surface_samples(arrays: Arrays, count: int = 4) -> tuple[Surface, np.ndarray]:
    """A lattice of barycentric points on each triangle of the face, and each one's triangle."""
    chosen = arrays["pncc_triangles"]
    a, b = np.meshgrid(np.arange(count), np.arange(count), indexing="ij")
    lattice = np.stack([a, b, count - 1 - a - b], -1).reshape(-1, 3)
    lattice = (lattice[(lattice >= 0).all(1)] + 1 / 3) / count
    corner = np.repeat(arrays["triangles"][chosen].astype(int), len(lattice), 0)
    return Surface(corner, np.tile(lattice, (len(chosen), 1))), np.repeat(chosen, len(lattice))


def edge_samples(arrays: Arrays, edges: np.ndarray, steps: int = 8) -> tuple[Surface, np.ndarray]:
    """Points along edges [e, 2] between vertices, in order, each expressed on a triangle that has the edge."""
    triangles = arrays["triangles"].astype(int)
    corner, bary, triangle = [], [], []
    for a, b in edges:
        t = int(np.flatnonzero((triangles == a).any(1) & (triangles == b).any(1))[0])
        for s in np.arange(steps) / steps:
            corner.append(triangles[t])
            bary.append(np.where(triangles[t] == a, 1 - s, 0) + np.where(triangles[t] == b, s, 0))
            triangle.append(t)
    return Surface(np.array(corner), np.array(bary)), np.array(triangle)


def midline_edges(arrays: Arrays) -> np.ndarray:
    """[e, 2] the face's edges in the symmetry plane."""
    triangles = arrays["triangles"][arrays["pncc_triangles"]].astype(int)
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
    return np.unique(edges[(arrays["mirror"][edges] == edges).all(1)], axis=0)


def robust_cost(samples: Surface, seen: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean over renders [m] of the distance (head units, roughly) between sample and landmark, cut at 0.15."""
    total = np.zeros(len(samples.corner))
    for vertices, point in zip(seen, target, strict=True):
        miss = np.linalg.norm(project(samples(vertices), FOCAL) - point, axis=1)
        total += np.minimum(miss * CAMERA_DISTANCE / FOCAL, 0.15)
    return total / len(seen)


def mirror_pairs(places: np.ndarray) -> np.ndarray:
    """[468] each landmark's partner across the symmetry plane, from their places [468, 3] on the mean."""
    distance = np.linalg.norm(places[:, None] - places[None] * [-1, 1, 1], axis=2)
    middle = np.isin(np.arange(len(places)), MIDLINE)
    distance[middle] = distance[:, middle] = 1e3
    np.fill_diagonal(distance, np.where(middle, 0, 1e3))
    partner = linear_sum_assignment(distance + distance.T)[1]
    if not (partner[partner] == np.arange(len(places))).all():
        raise ValueError("landmarks do not pair up across the symmetry plane")
    return partner


def place_landmarks(arrays: Arrays, models: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The landmark arrays of the asset.

    landmarks_mp_triangle [468], landmarks_mp_bary [468, 3]; landmarks_mp_mirror [468]; landmarks_mp_spread [468]: mean
    distance in head units to what the model saw in the renders; landmarks_iris_triangle [10] and _bary: centre and
    rim of the right (MediaPipe 468-472), then the left iris (473-477); landmarks_68 [68] indices of the 468.
    """
    seen, target = observe(arrays, models, rng)
    mean = arrays["mean"]
    samples, triangle = surface_samples(arrays)
    on_mean = samples(mean)
    mirror = arrays["mirror"].astype(int)

    # First guess: the samples that project nearest in near-frontal renders of the mean person.
    first = np.stack([project(samples(v), FOCAL) for v in seen[: len(VIEWS)]])
    rough = np.zeros((POINTS, 3))
    for k in range(POINTS):
        gap = np.linalg.norm(first - target[: len(VIEWS), None, k], axis=2)
        rough[k] = on_mean[np.argsort(np.median(gap, 0))[:5]].mean(0)
    partner = mirror_pairs(rough)

    loops = confined(arrays)
    middle, middle_triangle = edge_samples(arrays, midline_edges(arrays))
    out_triangle, out_bary, spread = np.zeros(POINTS, int), np.zeros((POINTS, 3)), np.zeros(POINTS)
    for k in range(POINTS):
        if k in loops:
            choice, where = loops[k]
        else:
            choice, where = (middle, middle_triangle) if k in MIDLINE else (samples, triangle)
            near = np.flatnonzero(np.linalg.norm(choice(mean) - rough[k], axis=1) < REACH)
            choice, where = choice.pick(near), where[near]
        opposite = Surface(mirror[choice.corner], choice.bary)
        cost = robust_cost(choice, seen, target[:, k]) + robust_cost(opposite, seen, target[:, partner[k]])
        best = int(cost.argmin())
        out_triangle[k], out_bary[k], spread[k] = where[best], choice.bary[best], cost[best] / 2
    iris_triangle, iris_bary = iris_points(arrays)
    print(f"landmarks: median spread {np.median(spread) * 100:.2f} mm, worst {spread.max() * 100:.2f} mm", flush=True)
    return {
        "landmarks_mp_triangle": out_triangle.astype(np.int32),
        "landmarks_mp_bary": out_bary.astype(np.float32),
        "landmarks_mp_mirror": partner.astype(np.int32),
        "landmarks_mp_spread": spread.astype(np.float32),
        "landmarks_iris_triangle": iris_triangle.astype(np.int32),
        "landmarks_iris_bary": iris_bary.astype(np.float32),
        "landmarks_68": np.array(IBUG_68, np.int32),
    }


def confined(arrays: Arrays) -> dict[int, tuple[Surface, np.ndarray]]:
    """Landmarks that lie on a loop: upper ones on its upper half, corners at its ends."""
    out = {}
    contours = (("inner_lips", UPPER_INNER_LIP, LOWER_INNER_LIP), ("outer_lips", UPPER_OUTER_LIP, LOWER_OUTER_LIP),
                ("right_eye", *RIGHT_LIDS), ("left_eye", *LEFT_LIDS))  # fmt: skip
    for name, upper, lower in contours:
        loop = arrays[f"loop_{name}"].astype(int)
        samples, triangle = edge_samples(arrays, np.stack([loop, np.roll(loop, -1)], 1))
        place = samples(arrays["mean"])
        right, left = int(place[:, 0].argmin()), int(place[:, 0].argmax())
        steps = np.arange(len(place))
        # The loop starts on top and goes toward the person's left (+x; -x for the mirrored right eye) first.
        first, second = sorted((left, right))
        top = (steps <= first) | (steps >= second)
        for k in (*upper, *lower):
            if k in (upper[0], upper[-1]):
                index = np.array([right if k == upper[0] else left])
            else:
                index = np.flatnonzero(top if k in upper else ~top)
            if k in MIDLINE:
                index = index[np.abs(place[index, 0]) < 1e-6]
            out[k] = (samples.pick(index), triangle[index])
    return out


def iris_points(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Centre and rim (image right, top, left, bottom) of the right, then the left iris on the eyeballs."""
    triangles, mean = arrays["triangles"].astype(int), arrays["mean"]
    found, weights = [], []
    for label in (2, 1):
        ball = np.flatnonzero(arrays["part"][triangles[:, 0]] == label)
        corner = mean[triangles[ball]]
        centre = mean[arrays["part"] == label].mean(0)
        for dx, dy in ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1)):
            ray = centre[:2] + IRIS_RADIUS * np.array([dx, dy])
            a, b, c = (corner[:, k, :2] for k in range(3))
            area = cross(b - a, c - a)
            safe = np.where(np.abs(area) < 1e-12, 1, area)
            u, v = cross(ray - a, c - a) / safe, cross(b - a, ray - a) / safe
            bary = np.stack([1 - u - v, u, v], 1)
            hit = np.flatnonzero((bary > -1e-6).all(1) & (np.abs(area) > 1e-12) & (corner[..., 2].mean(1) > centre[2]))
            found.append(ball[hit[0]])
            weights.append(bary[hit[0]])
    return np.array(found), np.array(weights)


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Third component of the cross product of vectors [.., 2]."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
