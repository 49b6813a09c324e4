"""How a clip's brows move, measured in its pictures.

The landmark network sees where brows are, but the little by which they move drowns in its own noise, which turns with
the head. So each frame's upper face is laid straight by its landmarks; there all frames should look alike, and what
still differs is what the landmarks missed. It is taken to be a smooth shift of everything (quadratic in place), shifts
of the brows' parts and the head model's units of the brows, and found by Lucas and Kanade's method (in the inverse form
of Baker and Matthews 2004) against the mean of the clip's pictures. Its mean over the clip is zero: where brows are on
average, the network says.

Straight pictures have `SCALE` pixels a head unit (10 cm), x right and y down; they are small, so a clip's are held.
"""

import cv2
import numpy as np
from scipy.spatial import Delaunay

from data_pipelines.head import Head
from r3p.fit import BROWS, LIDS

UNITS = ("browInnerUp", "browDownLeft", "browDownRight", "browOuterUpLeft", "browOuterUpRight")
SCALE = 80
LEFT, RIGHT, BELOW, ABOVE = -0.62, 0.62, -0.2, 0.62  # of the picture, head units of the mean face
MARGIN = 0.05  # left out at the face's outline, which slides, and round the eyes, which blink and look about
DETAIL = 2.0  # pixels: what is coarser is light and shade
NOISE = 0.05  # least variance of a pixel over the clip, of pictures whose details have variance 1
BUMP = 0.12  # head units: how far the shift of a brow's part reaches
SHIFT, OWN, UNIT = 2.0, 0.25, 0.3  # standard deviations of the shift's terms, of parts', pixels, and of units
ROUNDS, STEPS = 3, 2
FULL, NONE = 0.12, 0.0  # landmarks above the first height (head units) are corrected, those below the second are not
NEIGHBOURS = 10
BELIEVED, DOUBTED = 0.75, 0.5  # likeness of the brows to the clip's mean: correlation
LEAST = 0.5  # of a clip's mean trust
# Glasses: their rims lie before the brows and slide over them as the head turns. They are told by the nose's bridge
# (half its width, its lower and upper end, head units), whose details hardly reach 0.025 of its brightness otherwise.
BRIDGE, RIMS = (0.1, -0.1, 0.2), 0.05
LONGEST = 1000  # frames that are compared with each other; a longer clip is cut into equal stretches


class BrowTracker:
    """`straighten` each frame in which there is a face, then `correct` the clip's landmarks."""

    def __init__(self, head: Head):
        flat = head.landmarks(head.mean)[:, :2].astype(np.float64)
        self.place = place = (flat - [LEFT, ABOVE]) * [SCALE, -SCALE]  # of the landmarks in a straight picture
        self.width, self.height = round((RIGHT - LEFT) * SCALE), round((ABOVE - BELOW) * SCALE)
        grid = np.stack(np.meshgrid(np.arange(self.width), np.arange(self.height)), -1).astype(np.float32)
        self._grid = grid
        mesh = Delaunay(place)
        pixels = grid.reshape(-1, 2) + 0.5
        triangle = mesh.find_simplex(pixels)
        inside = (triangle >= 0).reshape(self.height, self.width)
        to_weights = mesh.transform[triangle]
        two = np.einsum("nij,nj->ni", to_weights[:, :2], pixels - to_weights[:, 2])
        self._weights = np.concatenate([two, 1 - two.sum(1, keepdims=True)], 1).astype(np.float32)
        self._corners = mesh.simplices[triangle]
        self._outside = ~inside
        # Four parts of each: its outer end is often at the outline.
        self._parts = place[np.reshape(BROWS, (2, 2, 5))].mean(1)[:, 1:].reshape(-1, 2)

        moved = np.stack([head.landmarks(head.expression[head.names.index(u)])[:, :2] for u in UNITS], -1)
        moved = moved * np.array([SCALE, -SCALE])[:, None]  # [468, 2, units]
        self._basis = self._span(pixels, np.einsum("nk,nkcu->ncu", self._weights, moved[self._corners]))
        self._deviation = np.repeat([SHIFT, OWN, SHIFT, OWN, UNIT], [6, len(self._parts)] * 2 + [len(UNITS)])

        reach = np.ones((2 * round(MARGIN * SCALE) + 1,) * 2, np.uint8)
        eyes, brows = np.zeros((2, self.height, self.width), np.uint8)
        for half in np.split(np.array(LIDS), 2):
            cv2.fillConvexPoly(eyes, cv2.convexHull(place[half].astype(np.int32)), 1)
        for half in np.split(np.array(BROWS), 2):
            cv2.fillConvexPoly(brows, cv2.convexHull(place[half].astype(np.int32)), 1)
        clear = cv2.copyMakeBorder(inside[1:-1, 1:-1].astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        clear = cv2.erode(clear, reach) * (1 - cv2.dilate(eyes, reach))
        self._clear = clear.astype(np.float32)
        x, y = LEFT + (grid[..., 0] + 0.5) / SCALE, ABOVE - (grid[..., 1] + 0.5) / SCALE
        self._bridge = (np.abs(x) < BRIDGE[0]) & (y > BRIDGE[1]) & (y < BRIDGE[2])
        self._brows = ((clear * cv2.dilate(brows, reach)) > 0).ravel()

        fade = np.clip((flat[:, 1] - NONE) / (FULL - NONE), 0, 1)
        self._points = np.flatnonzero((fade > 0) & (place > 0).all(1) & (place < [self.width, self.height]).all(1))
        self._follow = self._span(place, moved)[self._points] * fade[self._points, None, None].astype(np.float32)
        # How a small step in the straight picture looks in the frame, by the nearest landmarks there.
        self._near = np.argsort(np.linalg.norm(place[self._points, None] - place, axis=2), axis=1)[:, :NEIGHBOURS]
        away = place[self._near] - place[self._points, None]
        self._slope = np.linalg.pinv(np.concatenate([away, np.ones_like(away[..., :1])], 2))[:, :2]

    def _span(self, place: np.ndarray, units: np.ndarray) -> np.ndarray:
        """What moves points [n, 2] of the straight picture: [n, 2, terms], the units [n, 2, u] last."""
        x, y = ((place - [self.width / 2, self.height / 2]) / (self.width / 2)).T
        apart = ((place[:, None] - self._parts) ** 2).sum(2) / (BUMP * SCALE) ** 2
        terms = np.concatenate([np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1), np.exp(-apart / 2)], 1)
        none = np.zeros_like(terms)
        return np.concatenate([np.stack([terms, none], 1), np.stack([none, terms], 1), units], 2).astype(np.float32)

    def straighten(self, rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """[height, width] uint8 of a frame with landmarks [n, 3] in pixels: the upper face as if seen from in front."""
        at = np.einsum("nk,nkc->nc", self._weights, landmarks[self._corners, :2].astype(np.float32))
        at = at.reshape(self.height, self.width, 2) - np.float32(0.5)  # OpenCV counts from pixel centres
        grey = cv2.cvtColor(_read(rgb, at), cv2.COLOR_RGB2GRAY)
        grey[self._outside] = 128
        return grey

    def _details(self, picture: np.ndarray) -> np.ndarray:
        """Without light and shade, of variance 1 where it counts."""
        grey = picture.astype(np.float32)
        grey -= cv2.GaussianBlur(grey, (0, 0), DETAIL)
        return np.asarray(grey / np.sqrt((self._clear * grey**2).sum() / self._clear.sum() + 1e-3))

    def _glasses(self, pictures: list[np.ndarray]) -> bool:
        mean = np.stack(pictures).mean(0, np.float32)
        rims = mean - cv2.GaussianBlur(mean, (0, 0), DETAIL)
        return bool(rims[self._bridge].std() > RIMS * mean[self._bridge].mean())

    def _moved(self, details: np.ndarray, terms: np.ndarray) -> np.ndarray:
        # einsum, here and below, because BLAS would wake threads for it: see r3p.fit
        shift = np.einsum("nct,t->nc", self._basis, terms.astype(np.float32))
        at = self._grid + shift.reshape(self.height, self.width, 2)
        return _read(details, at)

    def measure(self, pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What moves the straight pictures onto each other [t, terms], of mean 0, and how like the clip's mean the
        brows then are in each [t], as a correlation."""
        terms = np.zeros((len(pictures), len(self._deviation)))
        prior = 1 / self._deviation**2
        details = [self._details(p) for p in pictures]
        likeness = np.zeros(len(pictures))
        for k in range(ROUNDS + 1):
            moved = [self._moved(d, m) for d, m in zip(details, terms, strict=True)]
            mean = np.mean(moved, 0)
            if k == ROUNDS:
                rows = np.stack([mean, *moved]).reshape(len(moved) + 1, -1)[:, self._brows]
                rows -= rows.mean(1, keepdims=True)
                rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6
                likeness = np.einsum("tn,n->t", rows[1:], rows[0])
                break
            unlike = np.mean([(m - mean) ** 2 for m in moved], 0) if k else np.full_like(mean, 0.15)
            weight = self._clear / (cv2.GaussianBlur(unlike, (0, 0), 2) + NOISE) / DETAIL**2
            slopes = [cv2.Sobel(mean, cv2.CV_32F, *d, scale=1 / 8).ravel() for d in ((1, 0), (0, 1))]
            steep = np.einsum("nct,cn->tn", self._basis, np.stack(slopes))
            pull = steep * weight.ravel()
            gain = np.linalg.inv(np.einsum("tn,un->tu", pull, steep) + np.diag(prior))
            for t, d in enumerate(details):
                for _ in range(STEPS):
                    missing = (mean - self._moved(d, terms[t])).ravel()
                    terms[t] += gain @ (np.einsum("tn,n->t", pull, missing) - prior * terms[t])
            terms -= terms.mean(0)
        return terms, likeness

    def correct(self, landmarks: np.ndarray, pictures: list[np.ndarray]) -> tuple[np.ndarray, float]:
        """Landmarks [t, n, 3] of the frames whose straight pictures are given, with the motion that these show; and how
        far it is trusted, 0 to 1. At 0, where brows are not seen or behind glasses, the landmarks are as they were."""
        if len(pictures) > LONGEST:
            stretches = np.array_split(np.arange(len(pictures)), -(-len(pictures) // LONGEST))
            done = [self.correct(landmarks[s], pictures[s[0] : s[-1] + 1]) for s in stretches]
            return np.concatenate([d[0] for d in done]), float(np.mean([d[1] for d in done]))
        if self._glasses(pictures):
            return landmarks, 0.0
        terms, likeness = self.measure(pictures)
        trust = np.clip((likeness - DOUBTED) / (BELIEVED - DOUBTED), 0, 1)
        if trust.mean() < LEAST:
            return landmarks, 0.0
        terms = terms * trust[:, None]
        shift = np.einsum("nct,ft->fnc", self._follow, terms - terms.mean(0))
        slope = np.einsum("njk,fnkc->fnjc", self._slope, landmarks[:, self._near, :2])
        out = landmarks.copy()
        out[:, self._points, :2] += np.einsum("fnj,fnjc->fnc", shift, slope).astype(landmarks.dtype)
        return out, float(trust.mean())


def _read(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """An image at places [h, w, 2], in pixel centres."""
    x, y = (np.ascontiguousarray(at[..., k]) for k in range(2))
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
