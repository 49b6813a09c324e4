"""The face landmark network: 192x192 crop in, 478 points out, through the TFLite interpreter.

The attention mesh (Grishchenko et al. 2020, arXiv:2006.10962) refines lips and eyes from feature crops and adds the
irises. Its file holds three operators that the stock interpreter lacks (crop matrix from landmarks, bilinear crop,
landmarks back through the matrix); they are few and small, so the graph is run as two halves with those three steps
in numpy between them. The halves are the same file with another list of operators, inputs and outputs.
"""

import math
import struct
from collections.abc import Sequence

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from r3p.errors import InputError

SIZE = 192  # the network's input and the frame of its landmarks
# fmt: off
_LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,      # outer contour
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,      # inner contour
    76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408,      # between, outside
    62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407)      # between, inside
_EYE_A = (
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173,                    # lid contour
    130, 25, 110, 24, 23, 22, 26, 112, 243, 247, 30, 29, 27, 28, 56, 190,                           # rings around it
    226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189,
    35, 124, 46, 53, 52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245,
    156, 70, 63, 105, 66, 107, 55, 193)                                                             # brow
_EYE_B = (
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398,
    359, 255, 339, 254, 253, 252, 256, 341, 463, 467, 260, 259, 257, 258, 286, 414,
    446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442, 441, 413,
    265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465,
    383, 300, 293, 334, 296, 336, 285, 417)
# fmt: on
_CORNERS = ((61, 291), (33, 133), (362, 263))  # image left and right of lips and eyes: their crops' direction
_IRISES = (tuple(range(468, 473)), tuple(range(473, 478)))
_GRID, _CROP, _STRIDE, _SCALE = 48, 16, 4, 1.5  # feature map, crop from it, pixels a feature, crop beyond the points

# Tensor and operator numbers of face_landmark_with_attention.tflite (its sha256 is pinned in r3p.assets.fetch).
_FIRST = dict(operators=[*range(192), 698, 699, 700], inputs=[0], outputs=[186, 35, 710])
_SECOND = dict(
    operators=[k for k in range(198, 698) if k not in (688, 689, 691, 692, 695, 696)],
    inputs=[199, 200, 201],
    outputs=[697, 700, 704, 703, 707],
)


def interpreter(*, path: str | None = None, content: bytes | None = None, threads: int = 2) -> Interpreter:
    """A ready interpreter of a TFLite file or its bytes. Raises InputError when it is not one that can run."""
    try:
        it = Interpreter(model_path=path, model_content=content, num_threads=threads)
        it.allocate_tensors()
    except (ValueError, RuntimeError) as e:
        raise InputError(f"{path or 'the model'} is not a TFLite model that can run here ({e})") from e
    return it


class _Table:
    """One table of a flatbuffer: a vtable maps field numbers to offsets."""

    def __init__(self, buf: bytes | bytearray, pos: int) -> None:
        self.buf, self.pos = buf, pos
        self.vtable = pos - struct.unpack_from("<i", buf, pos)[0]
        self.vtable_size = struct.unpack_from("<H", buf, self.vtable)[0]

    def field(self, number: int) -> int:
        """Position of the offset that the field holds."""
        entry = 4 + 2 * number
        offset = struct.unpack_from("<H", self.buf, self.vtable + entry)[0] if entry < self.vtable_size else 0
        if not offset:
            raise InputError("the landmark model's file lacks a field that it should have: run `r3p assets` again")
        return self.pos + offset

    def vector(self, number: int) -> tuple[int, int]:
        """(length, position of the first element) of a vector field."""
        at = self.field(number)
        start = at + struct.unpack_from("<I", self.buf, at)[0]
        return struct.unpack_from("<I", self.buf, start)[0], start + 4

    def child(self, number: int, index: int) -> "_Table":
        _, first = self.vector(number)
        at = first + 4 * index
        return _Table(self.buf, at + struct.unpack_from("<I", self.buf, at)[0])


def cut_graph(model: bytes, operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
    """The TFLite model with only these operators of its first graph, in this order, between other tensors.

    The operator list shrinks in place; the input and output lists are appended and pointed to. Field numbers are those
    of the public TFLite schema: Model.subgraphs = 2; SubGraph.inputs, outputs, operators = 1, 2, 3.
    """
    buf = bytearray(model)
    graph = _Table(buf, struct.unpack_from("<I", buf, 0)[0]).child(2, 0)
    count, first = graph.vector(3)
    tables = [first + 4 * k + struct.unpack_from("<I", buf, first + 4 * k)[0] for k in range(count)]
    struct.pack_into("<I", buf, first - 4, len(operators))
    for j, k in enumerate(operators):
        struct.pack_into("<I", buf, first + 4 * j, tables[k] - (first + 4 * j))
    for number, tensors in ((1, inputs), (2, outputs)):
        buf += bytes(-len(buf) % 4)
        at = graph.field(number)
        struct.pack_into("<I", buf, at, len(buf) - at)
        buf += struct.pack(f"<{len(tensors) + 1}i", len(tensors), *tensors)
    return bytes(buf)


def _crop_matrix(points: np.ndarray, subset: Sequence[int], left: int, right: int) -> np.ndarray:
    """[2, 3]: from the crop's 16x16 grid to the feature map's 48x48, along the line from `left` to `right`."""
    p = points[:, :2] / _STRIDE
    d = p[right] - p[left]
    angle = -math.atan2(d[1], d[0])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    q = p[list(subset)] @ turn.T
    lo, hi = q.min(0), q.max(0)
    linear = turn.T @ np.diag(_SCALE * (hi - lo) / _CROP)
    return np.concatenate([linear, (turn.T @ (lo + hi) / 2 - linear @ np.full(2, _CROP / 2))[:, None]], 1)


def _crop(features: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Bilinear [16, 16, c] from [48, 48, c] at pixel centres, zero outside."""
    y, x = np.mgrid[:_CROP, :_CROP] + 0.5
    u, v = np.einsum("dk,khw->dhw", matrix, np.stack([x, y, np.ones_like(x)])) - 0.5
    inside = (u >= 0) & (u <= _GRID - 1) & (v >= 0) & (v <= _GRID - 1)
    x0, y0 = (np.clip(np.floor(a).astype(int), 0, _GRID - 2) for a in (u, v))
    a, b = (u - x0)[..., None], (v - y0)[..., None]
    top = features[y0, x0] * (1 - a) + features[y0, x0 + 1] * a
    bottom = features[y0 + 1, x0] * (1 - a) + features[y0 + 1, x0 + 1] * a
    return ((top * (1 - b) + bottom * b) * inside[..., None]).astype(np.float32)


class FaceMesh:
    """rgb [192, 192, 3] uint8 -> (points [n, 3] float32 in pixels of the crop, score in 0..1).

    x right, y down, z away from the viewer in the same unit. n is 468 for the plain model, 478 with the irises for the
    attention model (`attention`) and for the network inside a `face_landmarker.task`, whose input is 256x256 (`size`).
    """

    def __init__(self, model: bytes, *, attention: bool, threads: int = 2) -> None:
        self.attention = attention
        if attention:
            self._net = interpreter(content=cut_graph(model, **_FIRST), threads=threads)
            self._refine = interpreter(content=cut_graph(model, **_SECOND), threads=threads)
        else:
            self._net = interpreter(content=model, threads=threads)
        shape = self._net.get_input_details()[0]["shape"]
        sizes = sorted(int(np.prod(o["shape"])) for o in self._net.get_output_details())
        if len(shape) != 4 or shape[1] != shape[2] or (not attention and not {1404, 1434} & set(sizes)):
            raise InputError(
                f"the landmark model takes {list(shape)} and gives {sizes} numbers: "
                "expected a square image, and 468 or 478 points of 3 numbers"
            )
        self.size = int(shape[1])

    def __call__(self, rgb: np.ndarray) -> tuple[np.ndarray, float]:
        net = self._net
        net.set_tensor(net.get_input_details()[0]["index"], (rgb[None] / 255).astype(np.float32))
        net.invoke()
        if self.attention:
            points, features, score = (net.get_tensor(k) for k in _FIRST["outputs"])
            return self._refined(points.reshape(-1, 3), features[0]), _sigmoid(float(score.ravel()[0]))
        outputs = [net.get_tensor(o["index"]) for o in net.get_output_details()]
        points = max(outputs, key=np.size).reshape(-1, 3).copy()
        # The task file's network also gives a tongue score; the face score comes first in both.
        return points, _sigmoid(float(next(o for o in outputs if o.size == 1).ravel()[0]))

    def _refined(self, points: np.ndarray, features: np.ndarray) -> np.ndarray:
        net = self._refine
        regions = (_LIPS, _EYE_A, _EYE_B)
        matrices = [_crop_matrix(points, r, *c) for r, c in zip(regions, _CORNERS, strict=True)]
        for tensor, matrix in zip(_SECOND["inputs"], matrices, strict=True):
            net.set_tensor(tensor, _crop(features, matrix)[None])
        net.invoke()
        out = np.concatenate([points, np.zeros((10, 3), np.float32)])
        targets = zip(_SECOND["outputs"], (*regions, *_IRISES), (*matrices, *matrices[1:]), strict=True)
        for tensor, indices, matrix in targets:
            # The heads answer in pixels of the crop, 4 a feature, so only the matrix's shift has to be scaled.
            local = net.get_tensor(tensor)[0]
            out[list(indices), :2] = local @ matrix[:, :2].T + _STRIDE * matrix[:, 2]
        for iris, eye in zip(_IRISES, (_EYE_A, _EYE_B), strict=True):
            out[list(iris), 2] = points[list(eye[:16]), 2].mean()
        return out.astype(np.float32)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-min(max(x, -50.0), 50.0)))
