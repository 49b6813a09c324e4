"""The fitted head brought exactly onto a photograph's landmarks, with lips and lids that really meet.

A fit stops a few pixels short of the landmarks. For a head that wears the photograph that is not enough: a lid's edge
that lies 2 pixels off paints eyeball on skin. So what remains is spread over the mesh as a smooth offset. At lips and
lids the offset holds a part that is no shape but an opening; that part must vanish when the opening closes.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import spsolve

from data_pipelines.head import Head, project
from r3p.camera import CAMERA_DISTANCE, FOCAL, rotation

# MediaPipe's contours, image left to right: (upper, lower), the corners in the upper one.
INNER_LIPS = ((78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308), (95, 88, 178, 87, 14, 317, 402, 318, 324))
OUTER_LIPS = ((61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291), (146, 91, 181, 84, 17, 314, 405, 321, 375))
EYES = (
    ((33, 246, 161, 160, 159, 158, 157, 173, 133), (7, 163, 144, 145, 153, 154, 155)),
    ((362, 398, 384, 385, 386, 387, 388, 466, 263), (382, 381, 380, 374, 373, 390, 249)),
)
EYE_LOOPS = ("right_eye", "left_eye")
_CONTOURS = np.array(sorted({k for part in (*INNER_LIPS, *OUTER_LIPS, *EYES[0], *EYES[1]) for k in part}))
_STIFF = 0.02  # weight of the offset's smoothness against the contours' distances
_REACH_LIPS, _REACH_LIDS = 0.36, 0.24  # head units over which a change of the opening fades out on the skin


class Fitted(Protocol):
    """What is known of a photograph's head: identity [80], expression [64], euler [3] radians, trans [3] head units."""

    @property
    def identity(self) -> np.ndarray: ...
    @property
    def expression(self) -> np.ndarray: ...
    @property
    def euler(self) -> np.ndarray: ...
    @property
    def trans(self) -> np.ndarray: ...


def polygon(contours: tuple[tuple[int, ...], tuple[int, ...]]) -> list[int]:
    """Landmarks around an opening: along the upper contour, back along the lower."""
    return [*contours[0], *contours[1][::-1]]


def unproject(image: np.ndarray, depth: np.ndarray, focal: float = FOCAL) -> np.ndarray:
    """Image points [n, 2] in image widths at distance depth [n] from the camera -> posed points [n, 3]."""
    x, y = (image[:, 0] - 0.5) * depth / focal, (0.5 - image[:, 1]) * depth / focal
    return np.stack([x, y, CAMERA_DISTANCE - depth], 1)


def edge_graph(vertices: np.ndarray, triangles: np.ndarray, count: int) -> sparse.csr_matrix:
    """[count, count] symmetric matrix of edge lengths."""
    edges = np.unique(
        np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1), axis=0
    )
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1) + 1e-6
    half = sparse.coo_matrix((length, (edges[:, 0], edges[:, 1])), (count, count))
    return (half + half.T).tocsr()


@dataclass
class Opening:
    """A slit between two rows of vertices: upper [p] and lower [p] face each other in pairs.

    spread_upper, spread_lower: sparse [v, p], how far a pair's movement takes the skin along; share: of the upper row.
    closed [p]: distance of the pairs at which the plain head counts as shut; source [p]: how far over that the plain
    head is open with the photograph's expression; shown [p]: how far the photograph is. least_rate: head units by
    which the shown gap closes, at least, for one of the plain head's.
    """

    upper: np.ndarray
    lower: np.ndarray
    spread_upper: sparse.csr_matrix
    spread_lower: sparse.csr_matrix
    share: float
    closed: np.ndarray
    source: np.ndarray
    shown: np.ndarray
    least_rate: float

    def gap(self, vertices: np.ndarray) -> np.ndarray:
        """[p] height of the upper row over the lower, head units; negative where they cross."""
        return vertices[self.upper, 1] - vertices[self.lower, 1]

    def wanted(self, plain: np.ndarray) -> np.ndarray:
        """[p] the gap to show for a plain head: the photograph's at its own expression, none where shut."""
        closing = self.source - (self.gap(plain) - self.closed)
        rate = np.maximum(np.clip(self.shown / np.maximum(self.source, 1e-3), 0.4, 3.0), self.least_rate)
        return np.maximum(self.shown - np.where(closing > 0, rate, 1.0) * closing, 0)

    def settle(self, vertices: np.ndarray, gap: np.ndarray, rounds: int = 2) -> np.ndarray:
        """vertices [v, 3] moved to the given gap [p]. Neighbours share movement, so that one round leaves a rest."""
        out = vertices.copy()
        for _ in range(rounds):
            change = gap - self.gap(out)
            out[:, 1] += self.spread_upper @ (self.share * change) - self.spread_lower @ ((1 - self.share) * change)
        return out


def _rows(loop: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The loop's upper and lower vertices in pairs, without the corners; the loop starts on top."""
    ends = sorted((int(mean[loop, 0].argmin()), int(mean[loop, 0].argmax())))
    lower = loop[ends[0] + 1 : ends[1]]
    upper = np.concatenate([loop[ends[1] + 1 :], loop[: ends[0]]])
    upper = upper[np.argsort(mean[upper, 0])]
    lower = lower[np.argsort(mean[lower, 0])]
    partner = np.rint(np.linspace(0, len(lower) - 1, len(upper))).astype(int)
    return upper, lower[partner]


def _spread(
    graph: sparse.csr_matrix, mean: np.ndarray, row: np.ndarray, other: np.ndarray, reach: float
) -> sparse.csr_matrix:
    """[v, p]: a vertex nearer to `row` than to `other` follows the row at its own x, fading with distance."""
    own = dijkstra(graph, indices=np.unique(row), min_only=True, limit=1.5 * reach)
    far = dijkstra(graph, indices=np.unique(other), min_only=True, limit=1.5 * reach)
    near = np.flatnonzero((own < reach) & (own <= far))
    x = mean[row, 0]
    width = max(np.abs(np.diff(np.sort(x))).max(), 1e-3)
    kernel = np.exp(-0.5 * ((mean[near, 0][:, None] - x) / width) ** 2) + 1e-9
    kernel /= kernel.sum(1, keepdims=True)
    outside = np.clip((np.maximum(x.min() - mean[near, 0], mean[near, 0] - x.max())) / (0.5 * reach), 0, 1)
    fade = np.cos(0.5 * np.pi * own[near] / reach) ** 2 * (1 - outside)
    return sparse.csr_matrix(
        (np.ravel(fade[:, None] * kernel), (np.repeat(near, len(row)), np.tile(np.arange(len(row)), len(near)))),
        (len(mean), len(row)),
    )


class Shape:
    """The photograph's head as a function of expression.

    landmarks: [468+, >= 2] in image widths. `offset` [v, 3] is what the fit missed; `source` [v, 3] the vertices in the
    photograph, head frame.
    """

    def __init__(self, head: Head, landmarks: np.ndarray, fit: Fitted) -> None:
        self.head, self.fit = head, fit
        self.turn, self.trans = rotation(np.asarray(fit.euler, np.float64)), np.asarray(fit.trans, np.float64)
        self.neutral = head.vertices(fit.identity, np.zeros_like(fit.expression))
        plain = head.vertices(fit.identity, fit.expression)
        skin = int((head.part[: int(head.arrays["head_vertices"])] == 0).sum())
        triangles = head.triangles[: int(head.arrays["head_triangles"])]
        self.skin_triangles = triangles[(head.part[triangles] == 0).all(1)]
        self.graph = edge_graph(head.mean, self.skin_triangles, len(head.mean))
        self.offset = self._offset(plain, landmarks, skin).astype(np.float32)
        self.openings = [self._opening(name, plain) for name in ("inner_lips", *EYE_LOOPS)]
        self._blinks = [
            self._blink(o, n) for o, n in zip(self.openings[1:], ("eyeBlinkRight", "eyeBlinkLeft"), strict=True)
        ]
        self.source = self.vertices(fit.expression)

    def pose(self, vertices: np.ndarray) -> np.ndarray:
        """Head frame -> the photograph's camera frame."""
        return vertices @ self.turn.T + self.trans

    def unpose(self, posed: np.ndarray) -> np.ndarray:
        """The photograph's camera frame -> head frame."""
        return (posed - self.trans) @ self.turn

    def plain(self, expression: np.ndarray) -> np.ndarray:
        """expression [64] -> [v, 3] float32, head frame: the parametric head alone."""
        moved = np.asarray(expression, np.float32) @ self.head.expression.reshape(len(self.head.expression), -1)
        return self.neutral + moved.reshape(-1, 3)

    def vertices(self, expression: np.ndarray) -> np.ndarray:
        """expression [64] -> [v, 3] float32, head frame: aligned with the photograph, lips and lids settled."""
        return self.settled(self.plain(expression))

    def settled(self, plain: np.ndarray) -> np.ndarray:
        """The aligned vertices [v, 3] of a plain head [v, 3]."""
        lips, *eyes = self.openings
        gaps = [lips.wanted(plain)]
        for eye, (ids, move, rate) in zip(eyes, self._blinks, strict=True):
            over = float(eye.gap(plain).mean()) / rate
            if over > 0:  # lids that cross: as much of the blink is taken back as makes them meet
                plain = plain.copy()
                plain[ids] -= over * move
            gaps.append(eye.wanted(plain) * (over <= 0))
        out = plain + self.offset
        for opening, gap in zip(self.openings, gaps, strict=True):
            out = opening.settle(out, gap, rounds=2 if gap.any() else 4)
        return out.astype(np.float32)

    def _blink(self, opening: Opening, unit: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Vertices that a blink moves, their movement a unit, and what that does to the mean gap (negative)."""
        move = self.head.expression[self.head.names.index(unit)]
        ids = np.flatnonzero(np.abs(move).max(1) > 1e-5)
        return ids, move[ids], float((move[opening.upper, 1] - move[opening.lower, 1]).mean())

    def apertures(self, vertices: np.ndarray) -> np.ndarray:
        """[3] mean gaps of lips, right eye, left eye in head units."""
        return np.array([np.maximum(o.gap(vertices), 0).mean() for o in self.openings])

    def _opening(self, name: str, plain: np.ndarray) -> Opening:
        """The lips, which the neutral head holds shut, or an eye, which is shut where the lids touch."""
        mean = self.head.mean
        upper, lower = _rows(self.head.arrays[f"loop_{name}"].astype(int), mean)
        lips = name == "inner_lips"
        closed = (self.neutral[upper, 1] - self.neutral[lower, 1]) * lips
        shown = plain + self.offset
        reach = _REACH_LIPS if lips else _REACH_LIDS
        return Opening(
            upper,
            lower,
            spread_upper=_spread(self.graph, mean, upper, lower, reach),
            spread_lower=_spread(self.graph, mean, lower, upper, reach),
            share=0.35 if lips else 1.0,
            closed=closed,
            source=plain[upper, 1] - plain[lower, 1] - closed,
            shown=np.maximum(shown[upper, 1] - shown[lower, 1], 0),
            least_rate=1.0 if lips else 0.0,
        )

    def _offset(self, plain: np.ndarray, landmarks: np.ndarray, skin: int) -> np.ndarray:
        """[v, 3]: a smooth field that takes the contours onto the landmarks and leaves their distances alone."""
        head = self.head
        corner = head.triangles[head.arrays["landmarks_mp_triangle"]]
        bary = head.arrays["landmarks_mp_bary"].astype(np.float64)
        posed = self.pose(np.einsum("nk,nkc->nc", bary, plain[corner]))
        depth = CAMERA_DISTANCE - posed[:, 2]
        missing = unproject(landmarks[:468, :2], depth) - unproject(project(posed), depth)
        weight = np.full(468, 0.15)
        weight[_CONTOURS] = 3.0
        rows = np.repeat(np.arange(468), 3)
        entries = (bary * weight[:, None]).ravel()
        data = sparse.csr_matrix((entries, (rows, corner.ravel())), (468, len(plain)))[:, :skin]
        link = self.graph[:skin, :skin].copy()
        link.data = 1 / link.data
        degree = np.asarray(link.sum(1)).ravel()
        laplace = sparse.diags(1 / np.maximum(degree, 1e-9)) @ (sparse.diags(degree) - link)
        system = data.T @ data + _STIFF * (8 * laplace.T @ laplace + 0.02 * laplace) + 1e-5 * sparse.eye(skin)
        field = np.zeros_like(plain, dtype=np.float64)
        target = (missing * weight[:, None]) @ self.turn  # rows: into the head's frame
        field[:skin] = spsolve(((system + system.T) / 2).tocsc(), data.T @ target)
        field *= (1 - head.arrays["static"].astype(np.float64))[:, None]
        for label, name in ((1, "left_eye"), (2, "right_eye")):
            field[head.part == label] = field[head.arrays[f"loop_{name}"].astype(int)].mean(0)
        field[head.part >= 3] = field[head.arrays["loop_inner_lips"].astype(int)].mean(0)
        return field
