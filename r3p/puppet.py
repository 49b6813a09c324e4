"""A photograph as its own teacher: photo-real examples of one head under nearby cameras, with any expression.

The fitted head (`puppet_shape`) wears the photograph by projection (`puppet_skin`); hair and ears are a relief that
goes on from the face (`puppet_relief`); eyes and mouth open and close over eyeballs, teeth and a dark mouth in the
photograph's tones (`puppet_inside`); neck and torso follow in the plane (`puppet_torso`). Light stays the
photograph's. Camera and PNCC are exact.

Plain numpy and OpenCV, for the host. Coordinates in the photograph are continuous pixels.
"""

import cv2
import numpy as np

from data_pipelines.head import Head, draw_pncc, project
from r3p.camera import from_pose, rotation
from r3p.errors import InputError
from r3p.matting import FACE_SKIN, HAIR, HEAD, TORSO, Layers
from r3p.puppet_draw import FAR, Buffer, Surface, laid, sample, sample_list, window
from r3p.puppet_inside import Inside
from r3p.puppet_relief import build_relief
from r3p.puppet_sample import FACING, STILL, draw_expression, draw_pose
from r3p.puppet_shape import EYES, OUTER_LIPS, Fitted, Shape, polygon
from r3p.puppet_skin import Parts, Skin
from r3p.puppet_texture import SCALE, closed_lids, enlarge, skin_sheet
from r3p.puppet_torso import Torso

_RELIEF = 2.0  # third attribute of the relief; the mesh has its opacity there, at most 1
_BACK_SHADE = 0.9


class Puppet:
    """One portrait as a renderer of itself.

    Args:
      image: uint8 [s, s, 3] RGB, a square portrait (512 is usual).
      landmarks: [468 or 478, >= 2] MediaPipe landmarks in pixels; with 478 the irises are taken from them.
      fit: the head's identity [80], expression [64], euler [3], trans [3] in this photograph.
      layers: `matting.split_layers` of it.
      head: the built-in head.
      size, pncc_size: of the examples, pixels.
      spread: of their expressions, see `puppet_sample.draw_expression`.

    Raises:
      InputError: when the image is not a square RGB picture or landmarks are missing.
    """

    def __init__(
        self,
        image: np.ndarray,
        landmarks: np.ndarray,
        fit: Fitted,
        layers: Layers,
        head: Head | None = None,
        *,
        size: int = 256,
        pncc_size: int = 192,
        spread: float = 0.0,
    ) -> None:
        if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(
                f"the portrait is {image.dtype} {image.shape}: expected a square uint8 RGB image; crop it first"
            )
        if len(landmarks) < 468:
            raise InputError(f"{len(landmarks)} landmarks: expected MediaPipe's 468 or 478 points")
        self.head = Head() if head is None else head
        self.image, self.landmarks, self.layers = image, np.asarray(landmarks, np.float64), layers
        self.fit, self.size, self.pncc_size, self.spread = fit, size, pncc_size, spread
        side = len(image)
        self.shape = Shape(self.head, self.landmarks[:, :2] / side, fit)
        self.parts = Parts(self.head, self.shape)
        own = self._relief_mask()
        sheet = skin_sheet(image, layers, self.landmarks)
        # Only the relief reads the sheet's alpha: it ends with its own mask, not with its grid's cells.
        soft = cv2.GaussianBlur(own.astype(np.float32), (0, 0), 0.8)
        sheet[..., 3] = np.round(sheet[..., 3] * np.where(np.isin(layers.segmap, HEAD), soft, 1))
        self.skin = Skin(self.head, self.shape, self.parts, layers, sheet, enlarge(sheet))
        self._lids = [
            (
                (slice(SCALE * r.start, SCALE * r.stop), slice(SCALE * c.start, SCALE * c.stop)),
                enlarge(colours),
                enlarge(weight)[..., None],
            )
            for (r, c), colours, weight in closed_lids(sheet, self.landmarks)
        ]
        self.relief = build_relief(self.shape, own, self.skin.depth, self.parts.face, self.parts.centre)
        flat = np.clip(self.relief.pixels, 1, side - 1) * SCALE
        worn = np.concatenate([flat, np.full((len(flat), 1), _RELIEF)], 1)
        self._front, self._back = Surface(self.relief.triangles, worn), Surface(self.relief.back_triangles, worn)
        self.inside = Inside(
            self.head, self.shape, image, self.landmarks, self.skin.pixels, self.parts.cavity_triangles
        )
        # Skin about the jaw that the mesh does not reach is neck to us: it goes with the torso.
        rest = np.isin(layers.segmap, HEAD) & ~own & ~np.isfinite(self.skin.depth)
        rest = cv2.GaussianBlur(rest.astype(np.float32), (0, 0), 0.7) * layers.alpha
        self.torso = Torso(
            self.shape, image, layers, self.landmarks, rest, self.skin.neck, self.skin.sheet, self.head.arrays["static"]
        )
        self.source = self._source()

    def _relief_mask(self) -> np.ndarray:
        """[s, s] bool: the head, but for what of its skin lies about the jaw: there the mesh's own outline holds."""
        chin, brow = self.landmarks[152, :2], self.landmarks[10, :2]
        y, x = np.mgrid[: len(self.image), : len(self.image)] + 0.5
        up = (x - chin[0]) * (brow - chin)[0] + (y - chin[1]) * (brow - chin)[1]
        mouth = (self.landmarks[[61, 291], :2].mean(0) - chin) @ (brow - chin)
        head = np.isin(self.layers.segmap, HEAD) & (self.layers.alpha > 0.5)
        return head & ((self.layers.segmap == HAIR) | (up > mouth))

    # ---- rendering

    def head_layer(self, vertices: np.ndarray, euler: np.ndarray, trans: np.ndarray, size: int) -> np.ndarray:
        """The head alone [size, size, 4] float32 in 0..255, premultiplied; vertices [v, 3] of an expression."""
        turn, shift = rotation(np.asarray(euler, np.float64)).astype(np.float32).T, np.asarray(trans, np.float32)
        front, back = (points @ turn + shift for points in self.relief.moved(vertices - self.shape.source))
        posed = vertices @ turn + shift
        twice = np.concatenate([posed, posed])
        area = window(size * project(np.concatenate([front, posed[self.parts.drawn]])), size)
        before, behind = Buffer(size, area), Buffer(size, area)
        before.draw(twice, self.skin.face, cull=True)
        before.draw(front, self._front, cull=True)
        behind.draw(back, self._back, cull=False)
        filled = behind.hit
        behind.depth[:] = FAR  # the relief's margin, where it is transparent, must not hide the jaw's side
        behind.draw(twice, self.skin.behind, cull=True)
        filled |= behind.hit

        worn, tag, hit = sample(self._worn(vertices), before.at), before.at[..., 2], before.hit
        alpha = np.where(tag > 1.5, worn[..., 3] * np.float32(1 / 255), np.minimum(tag, 1)) * hit
        shown = laid(worn, alpha)
        # What shines through the fading chin is the neck, not the mouth behind it.
        open_at = (alpha < 0.999) & ~(hit & (tag < 1.5))
        under = np.zeros_like(shown)
        need = open_at & filled
        at = behind.at[need]
        worn, tag = sample_list(self.skin.sheet, at), at[:, 2]
        under[need] = laid(
            worn * np.where(tag > 1.5, np.float32(_BACK_SHADE), np.float32(1))[..., None],
            np.where(tag > 1.5, worn[:, 3] * np.float32(1 / 255), tag),
        )
        self.inside.draw(under, (area[0].start, area[1].start), size, vertices, turn, shift)
        shown[open_at] += (1 - alpha[open_at])[:, None] * under[open_at]
        out = np.zeros((size, size, 4), np.float32)
        out[area] = shown
        return out

    def _worn(self, vertices: np.ndarray) -> np.ndarray:
        """The sheet with the lids' skin for how far they are shut."""
        shut = 1 - self.shape.apertures(vertices)[1:] / np.maximum(self.shape.apertures(self.shape.source)[1:], 1e-3)
        if (shut < 0.05).all():
            return self.skin.sheet
        sheet = self.skin.sheet.copy()
        for amount, (area, colours, weight) in zip(np.clip(shut, 0, 1), self._lids, strict=True):
            blend = amount * weight
            sheet[area][..., :3] = np.round(np.clip(sheet[area][..., :3] * (1 - blend) + colours * blend, 0, 255))
        return sheet

    def render(
        self,
        expression: np.ndarray,
        euler: np.ndarray,
        trans: np.ndarray,
        size: int | None = None,
        *,
        supersample: int = 2,
        background: np.ndarray | None = None,
        segmap: bool = True,
    ) -> dict[str, np.ndarray]:
        """The portrait with an expression [64] under a head pose.

        background: uint8 [size, size, 3] instead of the photograph's own. Returns uint8 [size, size(, 3)]: image,
        head (on black), head_mask, mask (the person's), and segmap (class ids) when asked.
        """
        return self._compose(self.shape.vertices(expression), euler, trans, size, supersample, background, segmap)

    def _compose(
        self,
        vertices: np.ndarray,
        euler: np.ndarray,
        trans: np.ndarray,
        size: int | None = None,
        supersample: int = 2,
        background: np.ndarray | None = None,
        segmap: bool = False,
    ) -> dict[str, np.ndarray]:
        size = self.size if size is None else size
        fine = self.head_layer(vertices, euler, trans, size * supersample)
        head = cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)
        torso = self.torso.draw(vertices, euler, trans, size)
        if background is None:
            background = cv2.resize(self.layers.background, (size, size), interpolation=cv2.INTER_AREA)
        body = torso[..., :3] + (1 - torso[..., 3:] * np.float32(1 / 255)) * background
        image = head[..., :3] + (1 - head[..., 3:] * np.float32(1 / 255)) * body
        mask = 255 - (255 - head[..., 3]) * (255 - torso[..., 3]) / 255
        out = {"image": image, "head": head[..., :3], "head_mask": head[..., 3], "mask": mask}
        out = {k: np.round(np.clip(v, 0, 255)).astype(np.uint8) for k, v in out.items()}
        if segmap:
            out["segmap"] = self._segmap(head[..., 3], torso[..., 3], euler, trans, size)
        return out

    def _segmap(
        self, head: np.ndarray, torso: np.ndarray, euler: np.ndarray, trans: np.ndarray, size: int
    ) -> np.ndarray:
        """uint8 [size, size]: class ids; the head's by a rigid turn of the photograph's classes, nearest texel."""
        turn, shift = rotation(np.asarray(euler, np.float64)), np.asarray(trans, np.float64)
        buffer = Buffer(size)
        count = len(self.shape.source)
        surface = Surface(self.parts.face_triangles, self.skin.face.attributes[:count])
        buffer.draw(self.shape.source @ turn.T + shift, surface, cull=True)
        buffer.draw(self.relief.vertices @ turn.T + shift, self._front, cull=True)
        side = len(self.image)
        ix, iy = (np.clip((buffer.at[..., k] / SCALE).astype(int), 0, side - 1) for k in (0, 1))
        classes = self.layers.segmap[iy, ix]
        classes = np.where(np.isin(classes, HEAD) & buffer.hit, classes, FACE_SKIN)
        flow = self.torso.flow(euler, trans, size) * (side / size)
        y, x = (np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)) * np.float32(side / size) - np.float32(0.5)
        body = cv2.remap(
            self.layers.segmap, x - flow[..., 0], y - flow[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
        body = np.where(np.isin(body, TORSO), body, TORSO[0])
        return np.where(head > 127, classes, np.where(torso > 127, body, 0)).astype(np.uint8)

    # ---- examples

    def example(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One teacher example; the source is always the photograph, and some targets are it again or
        have its pose.

        source, torso, background, target, target_head uint8 [s, s, 3]; source_segmap, target_head_mask, target_mask,
        weight (16 = 1) uint8 [s, s]; {source, target}_camera [25], _keypoints [68, 3], _expression [64], _euler [3],
        _trans [3], identity [80] float32; pncc_{canonical, source, target} uint8 [p, p, 3] in the frame 'box'.
        """
        fit = self.fit
        source_euler, source_trans = np.asarray(fit.euler, np.float64), np.asarray(fit.trans, np.float64)
        euler, trans, expression = source_euler, source_trans, np.asarray(fit.expression, np.float32)
        if rng.random() >= STILL:
            if rng.random() >= FACING:
                euler, trans = draw_pose(rng, source_euler, source_trans)
            expression = draw_expression(rng, self.head.names, expression, self.spread)
        plain = self.shape.plain(expression)
        vertices = self.shape.settled(plain)
        drawn = self._compose(vertices, euler, trans)
        shown = vertices @ rotation(euler).T + trans
        return (
            self.source
            | self._known("target", plain, expression, euler, trans)
            | {
                "target": drawn["image"],
                "target_head": drawn["head"],
                "target_head_mask": drawn["head_mask"],
                "target_mask": drawn["mask"],
                "weight": self._weight(shown, drawn["head_mask"]),
            }
        )

    def _source(self) -> dict[str, np.ndarray]:
        """The part of an example that never changes."""
        fit, size = self.fit, (self.size, self.size)
        expression = np.asarray(fit.expression, np.float32)
        return self._known(
            "source",
            self.shape.plain(expression),
            expression,
            np.asarray(fit.euler, np.float64),
            np.asarray(fit.trans, np.float64),
        ) | {
            "source": cv2.resize(self.image, size, interpolation=cv2.INTER_AREA),
            "source_segmap": cv2.resize(self.layers.segmap, size, interpolation=cv2.INTER_NEAREST),
            "torso": cv2.resize(self.layers.torso, size, interpolation=cv2.INTER_AREA),
            "background": cv2.resize(self.layers.background, size, interpolation=cv2.INTER_AREA),
            "pncc_canonical": draw_pncc(self.head, self.shape.neutral, self.pncc_size),
            "identity": np.asarray(fit.identity, np.float32),
        }

    def _known(
        self, name: str, plain: np.ndarray, expression: np.ndarray, euler: np.ndarray, trans: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Camera, key points, PNCC and parameters of the source or the target, from the plain head."""
        points = self.head.landmarks(plain @ rotation(euler).T + trans)[self.head.arrays["landmarks_68"]]
        flat = np.clip(2 * project(points) - 1, -1, 1)
        return {
            f"{name}_camera": from_pose(euler, trans).astype(np.float32),
            f"{name}_keypoints": np.concatenate([flat, np.zeros((68, 1))], 1).astype(np.float32),
            f"pncc_{name}": draw_pncc(self.head, plain, self.pncc_size),
            f"{name}_expression": expression.astype(np.float32),
            f"{name}_euler": np.float32(euler),
            f"{name}_trans": np.float32(trans),
        }

    def _weight(self, posed: np.ndarray, head_mask: np.ndarray) -> np.ndarray:
        """Loss weights uint8 [size, size], 16 = 1: lips, what is between them and eyes 9.5, other head 1.5."""
        flat = project(self.head.landmarks(posed)) * self.size
        mask = np.zeros((self.size, self.size), np.uint8)
        for contours in (OUTER_LIPS, *EYES):
            hull = cv2.convexHull(flat[polygon(contours)].astype(np.float32))
            cv2.fillPoly(mask, [np.round(hull).astype(np.int32)], 255)
        grow = max(3, self.size // 48) | 1
        grown = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow)))
        soft = cv2.GaussianBlur(np.asarray(grown, np.float32) / 255, (0, 0), self.size / 160)
        head = head_mask.astype(np.float32) / 255
        return np.round(16 * (1 + 0.5 * head + 8 * soft * head)).astype(np.uint8)
