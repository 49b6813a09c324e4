"""What stands behind the person: the photograph's own background made whole, or another one.

Colours RGB uint8 [h, w, 3], masks [h, w].
"""

import cv2
import numpy as np
from scipy import ndimage

from r3p.errors import InputError


def fill_holes(rgb: np.ndarray, known: np.ndarray) -> np.ndarray:
    """rgb with its unknown pixels filled smoothly from the known ones, finer near the rim, coarser farther in.

    Pull-push over a pyramid (Gortler et al. 1996): each level averages what is known, holes take the coarser level.
    Raises InputError when nothing is known.
    """
    weight = known.astype(np.float32)
    if not known.any():
        raise InputError("there is nothing to fill the picture from: the person covers all of it")
    colours: list[np.ndarray] = [rgb.astype(np.float32) * weight[..., None]]
    weights: list[np.ndarray] = [weight]
    while min(colours[-1].shape[:2]) > 1:
        h, w = weights[-1].shape
        half = ((w + 1) // 2, (h + 1) // 2)
        c, a = (
            cv2.resize(
                cv2.GaussianBlur(x, (5, 5), 1.0, borderType=cv2.BORDER_REPLICATE), half, interpolation=cv2.INTER_AREA
            )
            for x in (colours[-1], weights[-1])
        )
        colours.append(c)
        weights.append(a)
    out = colours[-1] / np.maximum(weights[-1], 1e-6)[..., None].reshape(*weights[-1].shape, 1)
    for c, a in zip(colours[-2::-1], weights[-2::-1], strict=True):
        up = cv2.resize(out, (a.shape[1], a.shape[0]), interpolation=cv2.INTER_LINEAR).reshape(*a.shape, 3)
        trust = np.clip(a, 0, 1)[..., None]
        out = np.where(a[..., None] > 1e-4, c / np.maximum(a, 1e-4)[..., None], up) * trust + up * (1 - trust)
    return np.where(known[..., None], rgb, np.round(np.clip(out, 0, 255))).astype(np.uint8)


def remove_person(rgb: np.ndarray, alpha: np.ndarray, margin: int | None = None) -> np.ndarray:
    """[h, w, 3] uint8: the background alone, the person's place filled from pixels farther than `margin` from it.

    margin: pixels, default a fiftieth of the width (10 at 512). Next to the rim the fill mirrors the picture outward
    of it, so that texture goes on; farther in it turns into a smooth fill with the picture's grain, without streaks.
    """
    h, w = alpha.shape
    margin = max(2, w // 50) if margin is None else margin
    hole = ndimage.distance_transform_edt(alpha < 0.05) <= margin
    if hole.all():
        hole = alpha > 0.05
    if hole.all():
        return np.full_like(rgb, 128)  # nothing of a background is seen, so none is ever uncovered either
    # Single hairs that the mask missed would stay behind when the head moves: a median takes them out near the person.
    away = ndimage.distance_transform_edt(~hole).astype(np.float32)
    plain = cv2.medianBlur(rgb, max(3, w // 45 | 1))
    near = np.clip(1.5 - away / (0.05 * w), 0, 1)[..., None]
    rgb = np.round(rgb + (plain.astype(np.float32) - rgb) * near).astype(np.uint8)
    smooth = fill_holes(rgb, ~hole).astype(np.float32)
    detail = rgb.astype(np.float32) - cv2.GaussianBlur(rgb, (0, 0), 1.5)
    grain = np.minimum(1.4826 * np.median(np.abs(detail[~hole]), 0), 6)
    smooth += np.random.default_rng(0).normal(0, 1, (h, w, 1)).astype(np.float32) * grain.astype(np.float32)

    depth = ndimage.distance_transform_edt(hole).astype(np.float32)
    normal = np.stack(np.gradient(cv2.GaussianBlur(depth, (0, 0), 0.01 * w)), -1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    y, x = np.mgrid[:h, :w].astype(np.float32)
    at = (x - 2 * depth * normal[..., 1]).astype(np.float32), (y - 2 * depth * normal[..., 0]).astype(np.float32)
    mirrored = cv2.remap(rgb, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT).astype(np.float32)
    known = cv2.remap((~hole).astype(np.float32), *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    weight = np.clip(1 - depth / (0.12 * w), 0, 1) * (known > 0.99)
    weight = np.minimum(weight, cv2.GaussianBlur(weight, (0, 0), 0.008 * w))[..., None]
    out = np.where(hole[..., None], mirrored * weight + smooth * (1 - weight), rgb)
    return np.round(np.clip(out, 0, 255)).astype(np.uint8)


def parse_colour(text: str) -> tuple[int, int, int] | None:
    """'#rrggbb' or a few names as RGB; None when the text is no colour (so it may be a file's name)."""
    named = {
        "black": (0, 0, 0),
        "white": (255, 255, 255),
        "grey": (128, 128, 128),
        "gray": (128, 128, 128),
        "green": (0, 177, 64),
        "blue": (0, 71, 187),
    }
    if text.lower() in named:
        return named[text.lower()]
    if text.startswith("#") and len(text) == 7:
        try:
            return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
        except ValueError:
            return None
    return None


def fit_background(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image [h, w, 3] cut in the middle to the aspect of size (w, h) and scaled to it."""
    h, w = image.shape[:2]
    scale = max(size[0] / w, size[1] / h)
    cw, ch = min(w, round(size[0] / scale)), min(h, round(size[1] / scale))
    x, y = (w - cw) // 2, (h - ch) // 2
    return cv2.resize(
        image[y : y + ch, x : x + cw], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
