"""One portrait into three layers: head, torso that goes on under the head, background without the person.

Needed because the model moves the head in front of a torso in front of a background: whatever a layer hides in the
photograph has to exist in the one behind. Pure numpy, scipy and OpenCV. Colours RGB uint8 [h, w, 3], masks float32
[h, w] in 0..1, class maps uint8 [h, w]: 0 background, 1 hair, 2 body skin, 3 face skin, 4 clothes, 5 others.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from r3p.backdrop import fill_holes, remove_person
from r3p.errors import InputError

BACKGROUND, HAIR, BODY_SKIN, FACE_SKIN, CLOTHES, OTHERS = range(6)
HEAD, TORSO = (HAIR, FACE_SKIN, OTHERS), (BODY_SKIN, CLOTHES)
# fmt: off
# The outline of the face in the 468 landmarks, from the forehead's middle clockwise in the image.
FACE_OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
             152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
# fmt: on
_FOREHEAD, _CHIN = 10, 152
_BINS = 12  # colour histogram bins a channel


@dataclass(frozen=True)
class Layers:
    """head and torso lie on black, weighted by their alpha (premultiplied): see `composite`.

    The torso reaches up under the head; the background is whole. alpha is the person's, before the extension.
    """

    segmap: np.ndarray
    alpha: np.ndarray
    head: np.ndarray
    head_alpha: np.ndarray
    torso: np.ndarray
    torso_alpha: np.ndarray
    background: np.ndarray

    def composite(self) -> np.ndarray:
        """[h, w, 3] uint8: the layers laid over each other again."""
        ah, at = self.head_alpha[..., None], self.torso_alpha[..., None]
        return np.round(self.head + (1 - ah) * (self.torso + (1 - at) * self.background)).astype(np.uint8)


@dataclass(frozen=True)
class _FaceFrame:
    """Coordinates of every pixel in the face's own frame: `up` is 0 at the chin and 1 at the hairline, `side` in the
    same unit from the face's axis; height is that unit in pixels."""

    up: np.ndarray
    side: np.ndarray
    height: float

    @classmethod
    def of(cls, landmarks: np.ndarray, shape: tuple[int, int]) -> "_FaceFrame":
        chin, axis = landmarks[_CHIN, :2], landmarks[_FOREHEAD, :2] - landmarks[_CHIN, :2]
        height = float(np.linalg.norm(axis))
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) + 0.5
        dx, dy = x - chin[0], y - chin[1]
        ux, uy = axis / height
        return cls((dx * ux + dy * uy) / height, (-dx * uy + dy * ux) / height, height)


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """values [h, w] or [h, w, k] smoothed so that they follow an RGB guide's edges (He, Sun, Tang 2013; colour form).

    guide [h, w, 3] float in 0..1; eps in squared units of the guide: smaller keeps fainter edges.
    """

    def mean(a: np.ndarray) -> np.ndarray:
        return cv2.blur(a, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    # Every pixel's 3x3 system by its Cholesky factors, plane by plane: a fifth of the time of LAPACK's many small ones.
    g = [np.ascontiguousarray(guide[..., k], np.float32) for k in range(3)]
    m = [mean(a) for a in g]
    c = {(i, j): mean(g[i] * g[j]) - m[i] * m[j] for i in range(3) for j in range(i, 3)}
    c |= {(k, k): c[k, k] + np.float32(eps) for k in range(3)}
    d0, l1, l2 = c[0, 0], c[0, 1] / c[0, 0], c[0, 2] / c[0, 0]
    d1 = c[1, 1] - l1 * c[0, 1]
    l3 = (c[1, 2] - l2 * c[0, 1]) / d1
    d2 = c[2, 2] - l2 * c[0, 2] - l3 * l3 * d1
    out = []
    for value in np.moveaxis(values.reshape(*values.shape[:2], -1).astype(np.float32), -1, 0):
        value = np.ascontiguousarray(value)
        p = mean(value)
        y0, y1, y2 = (mean(a * value) - b * p for a, b in zip(g, m, strict=True))
        y1 = y1 - l1 * y0
        a2 = (y2 - l2 * y0 - l3 * y1) / d2
        a1 = y1 / d1 - l3 * a2
        a0 = y0 / d0 - l1 * a1 - l2 * a2
        b = p - (a0 * m[0] + a1 * m[1] + a2 * m[2])
        out.append(mean(a0) * g[0] + mean(a1) * g[1] + mean(a2) * g[2] + mean(b))
    return np.stack(out, -1).reshape(values.shape)


def _away(from_: np.ndarray) -> np.ndarray:
    """[h, w] float32: each pixel's distance to the nearest one of a mask that has some."""
    return cv2.distanceTransform((~from_).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _grab_cut(rgb: np.ndarray, labels: np.ndarray, width: int) -> np.ndarray:
    """[h, w] bool: what belongs to the person by colour, given OpenCV's labels; decided on at most `width` pixels
    across, which is most of the time that layers take."""
    shape, scale = labels.shape, min(1.0, width / labels.shape[1])
    if scale < 1:
        size = (width, max(1, round(shape[0] * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    if np.isin(labels, (cv2.GC_BGD, cv2.GC_PR_BGD)).any():
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(np.ascontiguousarray(rgb[..., ::-1]), labels, (0, 0, 1, 1), *models, 3, cv2.GC_INIT_WITH_MASK)
    cut = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.float32)
    return cut > 0.5 if scale == 1 else cv2.resize(cut, shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def refine_alpha(rgb: np.ndarray, mask: np.ndarray, band: float = 0.03, cut_width: int = 1024) -> np.ndarray:
    """[h, w] float32: the network's soft, coarse person mask brought onto the picture's edges, hair included.

    A band of `band` image widths about the mask's outline is open: graph cut decides it by colour (GrabCut), then a
    guided filter makes the decision soft where the picture is. cut_width: pixels across that the cut looks at, at
    most. Raises InputError when the mask holds no person.
    """
    w = mask.shape[1]
    person = _largest(ndimage.binary_fill_holes(mask > 0.5))
    if person.mean() < 0.01:
        raise InputError("no person was told apart from the background: give a photograph with a plainer background")
    radius = max(2, round(band * w))
    # Beyond the image's border the person goes on: no band along it.
    framed = np.pad(person, radius, mode="edge")
    crop = (slice(radius, -radius), slice(radius, -radius))
    inward, outward = _away(~framed)[crop], _away(framed)[crop]
    # Nets cut hair short rather than long, so the band is wider outside than inside.
    sure, never = inward > 0.6 * radius, outward > radius
    labels = np.where(person, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[sure], labels[never] = cv2.GC_FGD, cv2.GC_BGD
    cut = _grab_cut(rgb, labels, cut_width)
    # The cut's word where the net was unsure; where they disagree flatly, between the two.
    prior = 0.65 * _largest(ndimage.binary_fill_holes(cut)) + 0.35 * np.clip(mask, 0, 1)
    soft = guided_filter(rgb / 255.0, prior, max(2, radius // 2), 2e-4)
    alpha = np.clip((soft - 0.5) * 1.7 + 0.5, 0, 1)
    alpha[inward > radius] = 1
    alpha[outward > 1.3 * radius] = 0
    return (alpha * (_connected(alpha > 0.02, sure))).astype(np.float32)


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, n = ndimage.label(mask)
    if n < 2:
        return mask
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def _connected(mask: np.ndarray, to: np.ndarray) -> np.ndarray:
    """The parts of a mask that touch another one."""
    labels, n = ndimage.label(mask)
    keep = np.zeros(n + 1, bool)
    keep[np.unique(labels[to & mask])] = True
    keep[0] = False
    return keep[labels]


def polygon_mask(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[h, w] bool inside a polygon [n, 2] of pixel coordinates."""
    out = np.zeros(shape, np.uint8)
    cv2.fillPoly(out, [np.round((points - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return out > 0


def _log_colour(lab: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """[h, w] log density of each pixel's colour under a smoothed histogram of the seed pixels' colours."""
    cells = np.minimum((lab.astype(int) * _BINS) // 256, _BINS - 1)
    flat = (cells[..., 0] * _BINS + cells[..., 1]) * _BINS + cells[..., 2]
    if not seeds.any():
        return np.full(seeds.shape, -np.log(_BINS**3), np.float32)
    counts = np.bincount(flat[seeds], minlength=_BINS**3).reshape((_BINS,) * 3).astype(np.float32)
    density = ndimage.gaussian_filter(counts, (0.8, 0.5, 0.5), mode="nearest")
    density = 0.97 * density / density.sum() + 0.03 / _BINS**3
    return np.log(density).ravel()[flat].astype(np.float32)


def _below_notch(frame: _FaceFrame, person: np.ndarray) -> np.ndarray:
    """[h, w] float32, -1..1: +1 on the shoulders' side of the silhouette's waist between head and shoulders, -1 on the
    head's side, 0 where the outline has no waist (long hair)."""
    out = np.zeros(person.shape, np.float32)
    levels = np.arange(-0.6, 0.75, 0.02)
    for sign in (-1.0, 1.0):
        side = sign * frame.side
        half = person & (side > 0)
        index = np.digitize(frame.up[half], levels)
        widths = np.zeros(len(levels) + 1)
        np.maximum.at(widths, index, side[half])
        widths = widths[1:-1]
        seen = np.flatnonzero(widths > 0)  # the picture may end just below the chin
        if seen.size < 10:
            continue
        widths = ndimage.gaussian_filter1d(np.interp(np.arange(len(widths)), seen, widths[seen]), 1.0)
        inner = seen[(levels[seen] > -0.5) & (levels[seen] < 0.45)]
        waist = inner[np.argmin(widths[inner])]
        above, below = widths[waist:].max(), widths[: waist + 1].max()
        if min(above, below) - widths[waist] > 0.05:
            out += np.where(side > 0.25, np.clip((levels[waist] - frame.up) / 0.04, -1, 1), 0)
    return out


def classify(
    rgb: np.ndarray,
    alpha: np.ndarray,
    landmarks: np.ndarray,
    face_mask: np.ndarray | None = None,
    neck_mask: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 [h, w] class map from the person's alpha and the landmarks [468+, 3], where no network tells the classes.

    Each class has a colour model, learned where the face's geometry makes it sure, and a place relative to the face;
    the sum decides, along the picture's edges. face_mask and neck_mask [h, w] (a fitted mesh's regions, optional) say
    more exactly than the landmarks where the face and the neck are. Jewellery and glasses stay with what they lie on.
    """
    shape = alpha.shape
    frame = _FaceFrame.of(landmarks, shape)
    up, side = frame.up, np.abs(frame.side)
    person = alpha > 0.5
    oval = polygon_mask(landmarks[list(FACE_OVAL), :2], shape)
    face = oval if face_mask is None else (np.asarray(face_mask) > 0.5) | oval
    r = max(1, round(0.03 * frame.height))
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    smooth = cv2.bilateralFilter(lab, 5, 20, 5)

    core = ndimage.binary_erosion(face, iterations=2 * r) & (up < 0.8) & (up > 0.12)
    near = _away(face) / frame.height
    crown = person & ~face & (up > 0.6) & (near > 0.06) & (near < 0.8)
    shoulder = _below_notch(frame, person)
    chest = person & ((up < -0.45) | (shoulder > 0.9))
    skin_colour = _log_colour(smooth, core)
    # Skin seen on the chest is no clothing; a first look takes it out of the clothes' model.
    clothes_colour = _log_colour(smooth, chest & (skin_colour < np.log(2.0 / _BINS**3)))
    hair_colour = _log_colour(smooth, crown & (skin_colour < np.log(8.0 / _BINS**3)))

    def ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
        return np.clip((value - low) / (high - low), 0, 1)

    score = np.full((*shape, 6), -30, np.float32)
    # Hair: above and beside the face; below the chin only beside the neck and by its colour.
    score[..., HAIR] = (
        hair_colour
        + 3.0 * ramp(up, 0.1, 0.7)
        - 9.0 * ramp(-up, 0.0, 0.7)
        - 4 * (up < 0.35) * (side < 0.2)
        - 12 * np.maximum(shoulder, 0)
    )
    score[..., FACE_SKIN] = np.where(
        face, np.maximum(skin_colour, np.where(up < 0.72, -2.0, -9.0)) + 4, skin_colour - 14 * ramp(near, 0.03, 0.16)
    ) - 12 * ramp(-up, -0.05, 0.05)
    on_neck = -12 * ramp(side, 0.38, 0.6) if neck_mask is None else np.where(np.asarray(neck_mask) > 0.5, 2.0, -6.0)
    score[..., BODY_SKIN] = skin_colour + np.where(up > -0.7, on_neck, -4) - 12 * ramp(up, 0.0, 0.3) - 20 * face
    # With a waist in the outline clothes end there; without one they fade out about the chin's height.
    above = np.where(shoulder == 0, ramp(up, -0.12, 0.25), np.maximum(-shoulder, 0) * ramp(up, -0.3, 0.0))
    score[..., CLOTHES] = clothes_colour + 3.0 * ramp(-up, 0.05, 0.5) - 14 * above - 20 * face
    kinds = [HAIR, BODY_SKIN, FACE_SKIN, CLOTHES]
    score[..., kinds] = guided_filter(rgb / 255.0, np.clip(score[..., kinds], -30, 5), 2 * r, 1e-3)
    out = np.where(person, score.argmax(-1), BACKGROUND).astype(np.uint8)
    return _tidy(out, core, up, frame.height)


def _tidy(segmap: np.ndarray, core: np.ndarray, up: np.ndarray, height: float) -> np.ndarray:
    """Without specks: the head is one piece about the face, holes take the class around them."""
    person = segmap != BACKGROUND
    head = _connected(np.isin(segmap, HEAD) | core, core)
    loose = np.isin(segmap, HEAD) & ~head
    segmap = np.where(loose, CLOTHES, segmap).astype(np.uint8)
    labels, _ = ndimage.label(segmap == BODY_SKIN)
    small = np.bincount(labels.ravel()) < 0.02 * height**2
    segmap = np.where(small[labels] & (labels > 0) & (up < -0.25), CLOTHES, segmap).astype(np.uint8)
    size = max(3, round(0.02 * height)) | 1
    votes = np.stack([cv2.GaussianBlur((segmap == k).astype(np.float32), (0, 0), 0.5 * size) for k in range(6)], -1)
    votes[..., BACKGROUND] = -1
    segmap = np.where(person, votes.argmax(-1), BACKGROUND).astype(np.uint8)
    filled = ndimage.binary_fill_holes(np.isin(segmap, HEAD)) & ~np.isin(segmap, HEAD) & person & (up > -0.3)
    if filled.any():
        nearest = ndimage.distance_transform_edt(~np.isin(segmap, HEAD), return_distances=False, return_indices=True)
        segmap = np.where(filled, segmap[tuple(nearest)], segmap)
    return segmap


def foreground_colour(rgb: np.ndarray, alpha: np.ndarray, background: np.ndarray, radius: int) -> np.ndarray:
    """[h, w, 3] float32: the person's own colour where alpha is partial, without the background that shines through.

    (image - (1 - alpha) background) / alpha where that is well conditioned, drawn toward the colour farther inside.
    """
    solid = alpha > 0.95
    inside = fill_holes(rgb, ndimage.binary_erosion(solid, iterations=max(1, radius // 2)) | (solid.sum() < 50) & solid)
    a = alpha[..., None]
    unmixed = (rgb - (1 - a) * background) / np.maximum(a, 0.05)
    trust = np.clip((a - 0.3) / 0.65, 0, 1)
    return np.where(solid[..., None], rgb, np.clip(unmixed, 0, 255) * trust + inside * (1 - trust)).astype(np.float32)


def extend_torso(rgb: np.ndarray, segmap: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(colours [h, w, 3] uint8, mask [h, w] bool): the torso, going on under the head.

    The neck goes up to the height of the mouth, narrowing and darkening as a chin's shadow does, the rest of the torso
    a little way under hair and jaw. So a head that turns or nods uncovers skin and cloth, not a hole.
    """
    frame = _FaceFrame.of(landmarks, segmap.shape)
    torso, head = np.isin(segmap, TORSO), np.isin(segmap, HEAD)
    if not torso.any():
        return np.zeros_like(rgb), torso
    jaw = np.abs(
        frame.side[
            np.clip(landmarks[[172, 397], 1].astype(int), 0, segmap.shape[0] - 1),
            np.clip(landmarks[[172, 397], 0].astype(int), 0, segmap.shape[1] - 1),
        ]
    ).mean()
    taper = np.clip(0.35 - frame.up, 0, 0.7) / 0.7
    neck = head & (frame.up < 0.35) & (np.abs(frame.side) < 0.9 * jaw * (0.75 + 0.25 * taper))
    under = head & (_away(torso) < 0.05 * frame.height) & (frame.up < 0.15)
    whole = _connected(torso | neck | under, torso)
    # Colours go up from a little below the edge, where no head colour is mixed in.
    clean = ndimage.binary_erosion(torso, iterations=max(1, round(0.015 * frame.height)), border_value=1) & torso
    clean = clean if clean.any() else torso
    # The neck goes on in its own colour: skin where some is seen, else whatever covers it (a scarf, a high collar).
    column = clean & (np.abs(frame.side) < jaw) & (frame.up > -0.6)
    skin = column & (segmap == BODY_SKIN)
    source = skin if skin.sum() > 0.002 * frame.height**2 else column if column.any() else clean
    away = _away(source)
    shade = np.maximum(0.7, 1 - 0.6 * away / frame.height)[..., None]
    filled = np.where(neck[..., None], fill_holes(rgb, source) * shade, fill_holes(rgb, clean))
    out = cv2.GaussianBlur(
        np.where(torso[..., None], rgb, filled).astype(np.float32), (0, 0), max(1.0, 0.015 * frame.height)
    )
    keep = np.clip(cv2.GaussianBlur(clean.astype(np.float32), (0, 0), 1.0) * 2 - 1, 0, 1)[..., None]
    out = rgb * keep + out * (1 - keep)
    return np.round(np.clip(out, 0, 255) * whole[..., None]).astype(np.uint8), whole


def split_layers(
    rgb: np.ndarray,
    person_mask: np.ndarray,
    landmarks: np.ndarray,
    *,
    segmap: np.ndarray | None = None,
    face_mask: np.ndarray | None = None,
    neck_mask: np.ndarray | None = None,
    background: np.ndarray | None = None,
    own: np.ndarray | None = None,
    cut_width: int = 1024,
) -> Layers:
    """Head, torso and background of a portrait crop.

    rgb uint8 [h, w, 3]; person_mask [h, w] from FaceFinder.person_mask; landmarks [468+, 3] in the crop; segmap uint8
    [h, w] when a network told the classes; background [h, w, 3] uint8 to stand behind instead of the photograph's own;
    own [h, w, 3] uint8: the photograph's, where it is known (a clip's, from its other frames); cut_width: see
    `refine_alpha`.
    """
    h, w = rgb.shape[:2]
    for name, a in (
        ("person_mask", person_mask),
        ("segmap", segmap),
        ("face_mask", face_mask),
        ("neck_mask", neck_mask),
        ("background", background),
        ("own", own),
    ):
        if a is not None and a.shape[:2] != (h, w):
            raise ValueError(f"{name} {a.shape}: expected {(h, w)} like the picture")
    alpha = refine_alpha(rgb, person_mask, cut_width=cut_width)
    if segmap is None:
        segmap = classify(rgb, alpha, landmarks, face_mask, neck_mask)
    own = remove_person(rgb, alpha) if own is None else own
    colour = foreground_colour(rgb, alpha, own, max(2, round(0.01 * w)))
    head = np.isin(segmap, HEAD)
    # Wisps outside the class map's person belong to what they hang on.
    part = ndimage.distance_transform_edt(segmap == BACKGROUND, return_distances=False, return_indices=True)
    head_everywhere = head[tuple(part)]
    inner = cv2.GaussianBlur(head_everywhere.astype(np.float32), (0, 0), 0.8)
    head_alpha = alpha * inner
    torso, whole = extend_torso(
        np.round(colour).astype(np.uint8), np.where(alpha > 0.5, segmap, BACKGROUND).astype(np.uint8), landmarks
    )
    own_torso = alpha * ~head_everywhere
    soft = cv2.GaussianBlur(whole.astype(np.float32), (0, 0), 1.0)
    torso_alpha = np.maximum(own_torso, soft * (whole & head_everywhere))
    torso_colour = np.where((whole & (torso.sum(-1) > 0))[..., None], torso, colour)
    return Layers(
        segmap,
        alpha,
        _premultiplied(colour, head_alpha),
        head_alpha.astype(np.float32),
        _premultiplied(torso_colour, torso_alpha),
        torso_alpha.astype(np.float32),
        own if background is None else background,
    )


def _premultiplied(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.round(colour * alpha[..., None]).astype(np.uint8)
