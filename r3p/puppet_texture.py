"""What a photograph's head wears: the photograph without what eyes and mouth show, and what lies behind those.

Sheets are RGBA uint8, straight (not premultiplied), `SCALE` texels a pixel of the photograph.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from r3p.backdrop import fill_holes
from r3p.matting import BODY_SKIN, HEAD, Layers, polygon_mask
from r3p.puppet_shape import EYES, INNER_LIPS, polygon

SCALE = 2
ATLAS = 512  # side of the unwrapped face, which holds what the photograph does not show
_CHEEKS = (50, 101, 118, 205, 280, 330, 347, 425)  # landmarks on bare skin
_SHUT = 0.07  # height over width of the lips' inner contour below which a mouth counts as shut
_PAST_CORNER = 0.13  # eye widths by which a shut lid's skin reaches past the eye's corners


@dataclass
class Block:
    """A rectangle of the photograph in a sheet: origin [2] in pixels, size (w, h) and place (x, y) in texels."""

    origin: np.ndarray
    size: tuple[int, int]
    place: tuple[int, int]

    def coordinates(self, pixels: np.ndarray) -> np.ndarray:
        """Continuous pixels [n, 2] of the photograph -> texels [n, 2] of the sheet, kept inside the block."""
        at = (pixels - self.origin) * SCALE
        return np.clip(at, 1, np.array(self.size) - 1) + self.place

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns in the sheet."""
        (x, y), (w, h) = self.place, self.size
        return slice(y, y + h), slice(x, x + w)


def enlarge(image: np.ndarray) -> np.ndarray:
    """SCALE times as large; a pixel's centre stays where it is in continuous coordinates."""
    return cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)


def skin_sheet(image: np.ndarray, layers: Layers, landmarks: np.ndarray) -> np.ndarray:
    """[s, s, 4] uint8 at the photograph's size: the head's colours without eyes and inner mouth.

    They go on beyond its outline. alpha is the head's matte. Skin of the neck stays, for what the face's mesh shows.
    """
    own = layers.head.astype(np.float32) / np.maximum(layers.head_alpha, 0.05)[..., None]
    solid = np.isin(layers.segmap, HEAD) & (layers.head_alpha > 0.9)
    clean = cv2.erode(solid.astype(np.uint8), np.ones((3, 3))) > 0
    neck = (layers.segmap == BODY_SKIN) & (layers.alpha > 0.95)
    known = clean | neck
    colour = fill_holes(
        np.where(solid[..., None] | neck[..., None], image, np.clip(own, 0, 255)).astype(np.uint8), known
    )
    trust = np.clip((layers.head_alpha - 0.35) / 0.5, 0, 1)[..., None] * (layers.head_alpha > 0)[..., None]
    edge = np.isin(layers.segmap, HEAD)[..., None] * trust
    colour = np.where(known[..., None], image, np.clip(own, 0, 255) * edge + colour * (1 - edge))
    openings = np.zeros(image.shape[:2], bool)
    for contours in (INNER_LIPS, *EYES):
        hole = polygon_mask(landmarks[polygon(contours), :2], image.shape[:2])
        # The lashes' line stays on the lids; of teeth nothing may stay on the lips.
        openings |= hole if contours is INNER_LIPS else ndimage.binary_erosion(hole)
    colour = np.round(colour).astype(np.uint8)
    colour = np.where(openings[..., None], fill_holes(colour, ~openings), colour)
    return np.dstack([colour, np.round(layers.head_alpha * 255).astype(np.uint8)])


def closed_lids(sheet: np.ndarray, landmarks: np.ndarray) -> list[tuple[tuple[slice, slice], np.ndarray, np.ndarray]]:
    """Per eye (rows, columns), colours float32 [h, w, 3] and weight [h, w]: the upper lid as it looks shut.

    A lid that comes down stretches the few pixels between lashes and crease; in their place comes smooth skin from
    above, with the lash line kept. Given at the scale of `sheet`, a skin sheet [s, s, 4] at the photograph's size.
    """
    spots = np.clip(landmarks[list(_CHEEKS), :2].astype(int), 0, sheet.shape[0] - 1)
    cheeks = np.median(cv2.medianBlur(np.ascontiguousarray(sheet[..., :3]), 5)[spots[:, 1], spots[:, 0]], 0) / 255
    tint = cv2.cvtColor(cheeks.astype(np.float32)[None, None], cv2.COLOR_RGB2LAB)[0, 0, 1:]
    out = []
    for contours in EYES:
        upper = landmarks[list(contours[0]), :2]
        opening = landmarks[polygon(contours), :2]
        width = float(np.linalg.norm(upper[-1] - upper[0]))
        height = float(np.ptp(opening[:, 1]))
        along = np.linspace(-_PAST_CORNER, 1 + _PAST_CORNER, len(upper) + 2)
        past = _PAST_CORNER * (upper[-1:] - upper[:1])
        ends = np.concatenate([upper[:1] - past, upper, upper[-1:] + past])
        arch = np.sin((along + 2 * _PAST_CORNER) / (1 + 4 * _PAST_CORNER) * np.pi)
        lift = np.stack([np.zeros_like(arch), -arch * max(0.95 * height, 0.24 * width)], 1)
        region = np.concatenate([ends + lift, landmarks[list(contours[1])[::-1], :2]])
        x0, y0 = np.floor(region.min(0) - 0.35 * width).astype(int)
        x1, y1 = np.ceil(region.max(0) + 0.35 * width).astype(int)
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, sheet.shape[1]), min(y1, sheet.shape[0])
        rows, columns = slice(y0, y1), slice(x0, x1)
        crop = np.ascontiguousarray(sheet[rows, columns, :3])
        hole = polygon_mask(region - [x0, y0], crop.shape[:2])
        under = upper[::-1] + np.array([0, 3 * height])
        below = polygon_mask(np.concatenate([upper, under]) - [x0, y0], crop.shape[:2])
        # Skin from above only: below the eye lie shadows and bags.
        skin: np.ndarray = fill_holes(crop, ~hole & ~below).astype(np.float32)
        skin = cv2.GaussianBlur(skin, (0, 0), 0.06 * width)
        # A lid has the tint of the cheeks, not that of the shadow under the brow.
        lab = cv2.cvtColor(np.clip(skin / 255, 0, 1).astype(np.float32), cv2.COLOR_RGB2LAB)
        lab[..., 1:] = 0.3 * lab[..., 1:] + 0.7 * tint
        skin = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255
        line = ndimage.distance_transform_edt(~polygon_mask(opening - [x0, y0], crop.shape[:2]))
        lash = np.exp(-((np.maximum(line - 0.4, 0) / max(0.02 * width, 0.7)) ** 2))
        x = (np.arange(x1 - x0) + 0.5 + x0 - min(upper[0, 0], upper[-1, 0])) / max(abs(upper[-1, 0] - upper[0, 0]), 1)
        lash = (lash * np.clip(np.minimum(x - 0.02, 0.98 - x) / 0.1, 0, 1))[..., None]
        colours = (skin * (1 - lash) + crop * lash).astype(np.float32)
        out.append(((rows, columns), colours, cv2.GaussianBlur(hole.astype(np.float32), (0, 0), 0.09 * width)))
    return out


def unwrap(direct: np.ndarray, seen: np.ndarray, shade: np.ndarray) -> np.ndarray:
    """[a, a, 3] uint8: the unwrapped face completed.

    direct [a, a, 3] uint8 colours and seen [a, a] 0..1 how well the photograph shows them; the map is symmetric about
    its middle column. Where the photograph shows a place's mirror image better, that is taken, in the light of its own
    side; where neither is seen, what is near goes on, darkened by `shade` [a, a].
    """
    flip: np.ndarray = direct[:, ::-1].astype(np.float32)
    other = seen[:, ::-1]
    both = (seen > 0.6) & (other > 0.6)
    if both.any():
        ratio = np.log((direct.astype(np.float32) + 8) / (flip + 8))
        steps = fill_holes(np.clip(128 + 160 * ratio, 0, 255).astype(np.uint8), both).astype(np.float32)
        light = (cv2.GaussianBlur(steps, (0, 0), ATLAS / 24) - 128) / 160
        flip = np.clip((flip + 8) * np.exp(np.clip(light, -0.35, 0.35)) - 8, 0, 255)
    either = np.maximum(seen, other)
    weight = (seen / np.maximum(seen + other * (1 - seen), 1e-6))[..., None]
    mixed = np.round(direct * weight + flip * (1 - weight)).astype(np.uint8)
    far: np.ndarray = fill_holes(mixed, either > 0.5).astype(np.float32) * shade[..., None]
    trust = np.clip(either / 0.5, 0, 1)[..., None]
    return np.round(mixed * trust + far * (1 - trust)).astype(np.uint8)


def iris_circle(landmarks: np.ndarray, eye: int, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre [2] and radius (pixels) of an iris: its landmarks when there are such, else the eye's darkest part."""
    if len(landmarks) >= 478:
        points = landmarks[468 + 5 * eye : 473 + 5 * eye, :2]
        return points[0], float(np.linalg.norm(points[1:] - points[0], axis=1).mean())
    contour = landmarks[polygon(EYES[eye]), :2]
    inside = polygon_mask(contour, image.shape[:2])
    dark = np.where(inside, 1 / (10.0 + image.astype(np.float32).mean(-1)) ** 2, 0)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    centre = np.array([(x * dark).sum(), (y * dark).sum()]) / dark.sum()
    return centre, 0.2 * float(np.ptp(contour[:, 0]))


def eye_block(image: np.ndarray, landmarks: np.ndarray, eye: int, grow: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """(origin [2], colours uint8 [h, w, 3] at the photograph's size): a whole eyeball's front.

    What the lids hide: the iris from its mirror image (up and down) or its own mean at that radius, the white from the
    white beside it, darker upward where the lid shades it.
    """
    contour = landmarks[polygon(EYES[eye]), :2]
    width = float(np.ptp(contour[:, 0]))
    lo = np.floor(contour.mean(0) - (0.5 + grow) * width).astype(int)
    side = int(np.ceil((1 + 2 * grow) * width))
    centre, radius = iris_circle(landmarks, eye, image)
    ys, xs = np.mgrid[lo[1] : lo[1] + side, lo[0] : lo[0] + side]
    crop = image[np.clip(ys, 0, image.shape[0] - 1), np.clip(xs, 0, image.shape[1] - 1)]
    seen = polygon_mask(contour - lo, crop.shape[:2])
    inner = ndimage.binary_erosion(seen, iterations=1)
    inner = inner if inner.sum() > 12 else seen
    if inner.sum() < 8:  # shut: an eye of plain tones, as bright as the face allows
        light = float(np.quantile(crop, 0.9))
        tones = np.where((np.hypot(xs - centre[0], ys - centre[1]) < radius)[..., None], 0.25 * light, 0.95 * light)
        return lo, np.round(np.repeat(tones, 3, 2)).astype(np.uint8)
    r = np.hypot(xs + 0.5 - centre[0], ys + 0.5 - centre[1]) / radius
    iris = r < 1.08
    white = inner & (r > 1.2)
    bright = crop.astype(np.float32).mean(-1)
    if white.sum() > 8:
        white &= bright > np.quantile(bright[white], 0.3)
    else:
        white = inner & (bright >= np.quantile(bright[inner], 0.8))
    sclera: np.ndarray = fill_holes(crop, white).astype(np.float32)
    sclera = cv2.GaussianBlur(sclera, (0, 0), 0.06 * width)
    sclera *= np.clip(1 - 0.25 * np.clip((centre[1] - ys) / width * 2, 0, 1), 0, 1)[..., None]

    bins = np.minimum((r * 8).astype(int), 10)
    profile = np.stack([np.bincount(bins[inner], crop[inner][:, k], 11) for k in range(3)], 1)
    number = np.bincount(bins[inner], minlength=11)
    have = number > 0
    mean = np.stack(
        [np.interp(np.arange(11), np.flatnonzero(have), profile[have, k] / number[have]) for k in range(3)], 1
    )
    ring = mean[bins]
    mirror_y = np.clip(np.rint(2 * (centre[1] - lo[1]) - 1 - (ys - lo[1])).astype(int), 0, side - 1)
    mirrored, mirror_seen = crop[mirror_y, xs - lo[0]], inner[mirror_y, xs - lo[0]]
    disc = np.where(mirror_seen[..., None], mirrored, ring)
    soft = np.clip((1.08 - r) / 0.16, 0, 1)[..., None]
    ball = disc * soft + sclera * (1 - soft)
    ball = np.where(iris[..., None] | (soft > 0), ball, sclera)
    keep = np.clip(cv2.GaussianBlur(seen.astype(np.float32), (0, 0), 0.7) * 2 - 0.4, 0, 1)[..., None]
    return lo, np.round(np.clip(crop * keep + ball * (1 - keep), 0, 255)).astype(np.uint8)


@dataclass
class MouthTones:
    """Colours [3] float32 of the photograph's mouth: lips, teeth, tongue, cavity."""

    lips: np.ndarray
    teeth: np.ndarray
    tongue: np.ndarray
    cavity: np.ndarray


def mouth_tones(image: np.ndarray, landmarks: np.ndarray, outer: np.ndarray, white: np.ndarray) -> MouthTones:
    """Tones in the photograph's own light. outer [n, 2]: the lips' outline; white [3]: the eyes' white."""
    inside = polygon_mask(landmarks[polygon(INNER_LIPS), :2], image.shape[:2])
    lips = polygon_mask(outer, image.shape[:2]) & ~ndimage.binary_dilation(inside, iterations=2)
    lip = np.median(image[lips], axis=0) if lips.any() else np.array([150.0, 90.0, 85.0])
    teeth = white * np.array([1.0, 0.96, 0.86])
    if inside.sum() > 20:
        pixels = image[inside].astype(np.float32)
        grey = pixels.mean(1)
        redness = (pixels[:, 0] - pixels[:, 1:].mean(1)) / (grey + 10)
        red = (lip[0] - lip[1:].mean()) / (lip.mean() + 10)
        pale = pixels[(grey > 0.45 * float(white.mean())) & (redness < 0.7 * red)]
        if len(pale) > 0.1 * len(pixels):
            teeth = np.median(pale, axis=0)
    cavity = np.clip(lip * np.array([0.35, 0.22, 0.22]), 4, 60)
    tones = (lip, teeth, lip * np.array([0.85, 0.72, 0.74]), cavity)
    return MouthTones(*(np.asarray(tone, np.float32) for tone in tones))


def teeth_sheet(tone: np.ndarray, lips: np.ndarray, size: tuple[int, int] = (160, 48)) -> np.ndarray:
    """[h, w, 3] uint8: a row of teeth, gum at the top (upside down for the lower row), x along the arch."""
    w, h = size
    x = (np.arange(w) + 0.5) / w * 2 - 1
    edges = np.cumsum([0, 0.155, 0.125, 0.14, 0.13, 0.13, 0.16, 0.16])
    edges = np.concatenate([-edges[:0:-1], edges])
    gap = np.abs(x[:, None] - edges).min(1)
    line = np.clip(gap / 0.018, 0, 1)
    y = (np.arange(h) + 0.5) / h
    gum_at = 0.22 + 0.07 * np.cos(np.clip(gap / 0.07, 0, 1) * np.pi)
    gum = np.clip((gum_at[None] - y[:, None]) / 0.05 + 0.5, 0, 1)[..., None]
    body = tone * (0.88 + 0.12 * line)[None, :, None] * (1.02 - 0.12 * np.abs(y - 0.6))[:, None, None]
    body = body * (1 - 0.22 * np.clip(np.abs(x) - 0.25, 0, 1))[None, :, None]
    return np.round(np.clip(body * (1 - gum) + lips * [0.95, 0.8, 0.8] * gum, 0, 255)).astype(np.uint8)


@dataclass
class MouthBlock:
    """The photograph between its lips: origin [2], colours uint8 [h, w, 3] that go on under the lips, upper and lower
    [h, w] float32: what stays with the skull and what goes with the jaw."""

    origin: np.ndarray
    colours: np.ndarray
    upper: np.ndarray
    lower: np.ndarray


def mouth_block(image: np.ndarray, landmarks: np.ndarray) -> MouthBlock:
    """Parts what the photograph shows between the lips at its dark line, where there is one, else at the lower lip.

    The parts overlap a little, and go on under the lips that cover them. Lips that all but meet show nothing.
    """
    contour = landmarks[polygon(INNER_LIPS), :2]
    width, height = float(np.ptp(contour[:, 0])), float(np.ptp(contour[:, 1]))
    pad = int(np.ceil(max(5, 0.08 * width, 0.6 * height)))
    lo = np.maximum(np.floor(contour.min(0)).astype(int) - pad, 0)
    hi = np.minimum(np.ceil(contour.max(0)).astype(int) + pad, [image.shape[1], image.shape[0]])
    crop = np.ascontiguousarray(image[lo[1] : hi[1], lo[0] : hi[0]])
    inside = polygon_mask(contour - lo, crop.shape[:2])
    if inside.sum() < 12 or height < _SHUT * width:
        return MouthBlock(lo, crop, *(np.zeros(crop.shape[:2], np.float32) for _ in range(2)))
    columns = np.flatnonzero(inside.any(0))
    light = cv2.GaussianBlur(crop, (0, 0), 0.7).astype(np.float32).mean(-1)
    cut, top, bottom = (np.zeros(crop.shape[1]) for _ in range(3))
    dark = np.zeros(crop.shape[1], bool)
    for x in columns:
        rows = np.flatnonzero(inside[:, x])
        top[x], bottom[x] = rows[0], rows[-1]
        line = light[rows[0] : rows[-1] + 1, x]
        cut[x] = rows[-1] + 1.0
        middle = slice(int(0.2 * len(line)), max(int(np.ceil(0.92 * len(line))), 1))
        if len(line[middle]) > 2:
            k = middle.start + int(line[middle].argmin())
            if min(line[: k + 1].max(), line[k:].max()) - line[k] > 0.12 * line.max():
                cut[x], dark[x] = rows[0] + k, True
    parted = dark.sum() > 0.4 * len(columns)
    if parted:
        cut[columns] = np.interp(columns, np.flatnonzero(dark), cut[dark])
    for values in (cut, top, bottom):
        values[: columns[0]], values[columns[-1] + 1 :] = values[columns[0]], values[columns[-1]]
    cut = cv2.GaussianBlur(ndimage.median_filter(cut, 5)[None], (0, 0), 1.0)[0]
    y = np.arange(crop.shape[0])[:, None]
    near = (y > top - 0.45 * height - 1) & (y < bottom + 0.45 * height + 1)
    sides = np.zeros(crop.shape[1], bool)
    sides[columns[0] : columns[-1] + 1] = True
    eroded = ndimage.binary_erosion(inside, iterations=1)
    colours = np.where(inside[..., None], crop, fill_holes(crop, eroded if eroded.sum() > 8 else inside))
    upper, lower = (
        (mask & near & sides).astype(np.float32)
        for mask in (y <= (cut if parted else bottom + 1), (y > cut - 2) & parted)
    )
    return MouthBlock(lo, colours, *(cv2.GaussianBlur(a, (0, 0), 0.6) for a in (upper, lower)))
