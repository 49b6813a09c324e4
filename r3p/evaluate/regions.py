"""Where a clip is wrong: in the hair, on the torso, at the seams of its layers; and how much the person flickers.

Regions are those of the true frame, told by `r3p.matting` from the face's landmarks and the person's mask, the same for
every method. Frames are uint8 [h, w, 3].
"""

import cv2
import numpy as np

from r3p import matting
from r3p.detect import FaceFinder
from r3p.evaluate.pixels import psnr
from r3p.evaluate.series import mean_or_nan

NAMES = ("hair", "torso", "seams")
SEAM = 0.02  # of the picture's longer side, on both sides of where two layers meet
LEAST = 0.002  # of the picture: a smaller region says nothing


def regions(truth: np.ndarray, person: np.ndarray, landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """bool [h, w] by name of `NAMES`, and `person`. person [h, w] in 0..1, landmarks [478, 2] in pixels."""
    segmap = matting.classify(truth, person, landmarks)
    layer = np.isin(segmap, matting.HEAD) + 2 * np.isin(segmap, matting.TORSO).astype(np.uint8)
    meets = np.zeros(layer.shape, np.uint8)
    meets[:, 1:] |= layer[:, 1:] != layer[:, :-1]
    meets[1:] |= layer[1:] != layer[:-1]
    reach = 2 * max(1, round(SEAM * max(layer.shape))) + 1
    band = cv2.dilate(meets, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    return {"hair": segmap == matting.HAIR, "torso": layer == 2, "seams": band > 0, "person": layer > 0}


class RegionTotals:
    """Sums over the frames of a clip; `add` for each frame that is looked at."""

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder
        self._mse: dict[str, list[float]] = {name: [] for name in NAMES}
        self._flicker: list[float] = []

    def add(
        self,
        ours: np.ndarray,
        truth: np.ndarray,
        landmarks: np.ndarray,
        before: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """A frame, its truth with the face's landmarks [478, 2] there (NaN: no face, no regions), and both a frame
        earlier."""
        if not np.isfinite(landmarks).all():
            return
        masks = regions(truth, self._finder.person_mask(truth), landmarks)
        difference = (ours.astype(np.float32) - truth) / 255
        for name in NAMES:
            if masks[name].mean() >= LEAST:
                self._mse[name].append(float(np.square(difference[masks[name]]).mean()))
        if before is not None and masks["person"].any():
            earlier = (before[0].astype(np.float32) - before[1]) / 255
            self._flicker.append(float(np.abs(difference - earlier)[masks["person"]].mean()))

    def figures(self) -> dict[str, float]:
        """By name; NaN where there was no such region. PSNR is of the mean squared error over frames: of each frame
        alone, one that equals its truth (a clip's first often is its source) would outweigh all others."""
        errors = {f"psnr_{name}": mean_or_nan(np.array(values)) for name, values in self._mse.items()}
        return {k: float(psnr(v)) for k, v in errors.items()} | {"flicker": mean_or_nan(np.array(self._flicker))}
