"""Drawing one posed, lit person: head and torso as separate soft pictures, as the model composites them."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from data_pipelines.head import LEFT_EYE, RIGHT_EYE, SKIN, TONGUE, Head, bounds, project, rasterize, vertex_normals
from data_pipelines.people_canvas import FACE, Canvas, lit_share
from data_pipelines.people_layers import Layer, grid_triangles
from data_pipelines.people_scene import Lights, illuminate
from r3p.camera import rotation

BACKGROUND, HAIR, NECK, FACE_SKIN, CLOTHES, OTHERS = range(6)
PIVOT = np.array([0.0, -0.95, -0.88])  # where the head turns on the neck, head units
FAR = 30.0


@dataclass
class Person:
    """A fixed appearance: identity [80], neutral vertices [v, 3], painted canvas, sheets on torso and head."""

    identity: np.ndarray
    neutral: np.ndarray
    paint: np.ndarray
    torso_layers: list[Layer]
    head_layers: list[Layer]
    lights: Lights
    shade: np.ndarray
    tone: np.ndarray  # [3] squared sRGB of the skin
    tags: dict = field(default_factory=dict)


@dataclass
class Picture:
    """One frame, drawn larger than it will be used. Colours sRGB float 0..1, head premultiplied by its coverage."""

    head: np.ndarray  # [h, w, 3]
    head_alpha: np.ndarray  # [h, w]
    head_label: np.ndarray  # [h, w] uint8
    torso: np.ndarray  # [h, w, 3] premultiplied
    torso_alpha: np.ndarray
    torso_label: np.ndarray
    vertices: np.ndarray  # [v, 3] posed head
    mouth: np.ndarray  # [h, w] teeth and tongue in sight


@dataclass
class Pose:
    """Head rotation and translation, and those of the torso (3DMM convention)."""

    euler: np.ndarray
    trans: np.ndarray
    torso_euler: np.ndarray
    torso_trans: np.ndarray

    def apply(self, points: np.ndarray, static: np.ndarray) -> np.ndarray:
        """Rest points [n, 3] -> posed: 0 follows the head, 1 the torso."""
        out = points @ rotation(self.euler).T + self.trans
        if static.any():
            still = points @ rotation(self.torso_euler).T + self.torso_trans
            out = out + (still - out) * static[:, None]
        return out.astype(np.float32)

    def turn(self, normals: np.ndarray, static: np.ndarray) -> np.ndarray:
        """The same for directions."""
        out = normals @ rotation(self.euler).T
        if static.any():
            out = out + (normals @ rotation(self.torso_euler).T - out) * static[:, None]
        return out.astype(np.float32)


@dataclass
class Sheet:
    """A soft picture under construction: premultiplied rgb, coverage, class, and the distance of what is nearest."""

    rgb: np.ndarray
    alpha: np.ndarray
    label: np.ndarray
    nearest: np.ndarray

    @classmethod
    def start(cls, rgb: np.ndarray, nearest: np.ndarray, mask: np.ndarray, kind: int) -> "Sheet":
        return cls(rgb, mask.astype(np.float32), mask.astype(np.uint8) * np.uint8(kind), nearest.copy())

    def _front(self, box: tuple[slice, slice], rgba: np.ndarray, depth: np.ndarray) -> tuple:
        """Where `rgba` is seen in front: the trimmed box, its slices there, coverage; Nones if nowhere."""
        a = rgba[..., 3] * (depth < self.nearest[box])
        x, y, w, h = cv2.boundingRect((a > 0.004).astype(np.uint8))
        if w == 0:
            return None, None, None
        part = (slice(y, y + h), slice(x, x + w))
        top, left = box[0].start + y, box[1].start + x
        return (slice(top, top + h), slice(left, left + w)), part, np.ascontiguousarray(a[part])

    def lay(self, kind: int, box: tuple[slice, slice], rgba: np.ndarray, depth: np.ndarray) -> None:
        """Put a layer over the picture where it is nearer."""
        place, part, a = self._front(box, rgba, depth)
        if place is None:
            return
        self.rgb[place] = cv2.blendLinear(self.rgb[place], np.ascontiguousarray(rgba[part][..., :3]), 1 - a, a)
        self.alpha[place] += (1 - self.alpha[place]) * a
        solid = a > 0.5
        np.copyto(self.label[place], np.uint8(kind), where=solid)
        np.copyto(self.nearest[place], depth[part], where=solid)

    def cut(self, box: tuple[slice, slice], rgba: np.ndarray, depth: np.ndarray) -> None:
        """Take away what a layer of the other picture hides."""
        place, part, a = self._front(box, rgba, depth)
        if place is None:
            return
        self.rgb[place] *= 1 - a[..., None]
        self.alpha[place] *= 1 - a
        solid = a > 0.5
        np.copyto(self.label[place], np.uint8(BACKGROUND), where=solid)
        np.copyto(self.nearest[place], depth[part], where=solid)


class Renderer:
    """Draws persons; holds what does not change between them."""

    def __init__(self, head: Head, canvas: Canvas):
        self.head, self.canvas = head, canvas
        part = head.part
        skin_triangle = part[head.triangles[:, 0]] == SKIN
        neck = skin_triangle & (canvas.face_weight[head.triangles].min(1) < 0.5) & ~canvas.ears[head.triangles].any(1)
        neck_triangles = head.triangles[neck & (head.mean[head.triangles][:, :, 1].max(1) < -0.35)]
        # third drawn channel: 0..1 face weight of skin, 2 eyes, 3 teeth, 4 tongue
        material = np.where(
            part == SKIN, canvas.face_weight, np.where(part <= RIGHT_EYE, 2.0, np.where(part == TONGUE, 4.0, 3.0))
        )
        self.paper = np.concatenate([canvas.uv, material[:, None]], 1).astype(np.float32)
        self.inner_light = np.ones(len(part), np.float32)
        teeth = (part > RIGHT_EYE) & (part < TONGUE)
        front = head.mean[teeth, 2].max()
        self.inner_light[teeth] = np.clip(0.75 - 0.9 * (front - head.mean[teeth, 2]), 0.08, 0.75)
        tongue = part == TONGUE
        self.inner_light[tongue] = np.clip(0.5 - 0.7 * (front - head.mean[tongue, 2]), 0.06, 0.5)
        # a plug inside the neck, so that the torso alone continues upward under the head
        angle = np.linspace(-np.pi, np.pi, 25)
        height = np.linspace(-1.5, -0.25, 8)
        radius = 0.44 * np.interp(height, [-1.5, -0.5, -0.25], [1, 0.95, 0.8])[:, None]
        plug = np.stack(
            [radius * np.sin(angle), np.broadcast_to(height[:, None], (8, 25)), -0.9 + 0.95 * radius * np.cos(angle)],
            -1,
        )
        self.plug = plug.reshape(-1, 3)
        self.plug_static = np.interp(self.plug[:, 1], [-1.5, -0.9], [0.9, 0.1])
        outward = plug - np.array([0, 0, -0.9])
        outward[..., 1] = 0
        self.plug_normal = (outward / np.linalg.norm(outward, axis=-1, keepdims=True)).reshape(-1, 3)
        under = (
            (np.abs(head.mean[:, 0]) < 0.1)
            & (part == SKIN)
            & (canvas.face_weight < 0.3)
            & (head.mean[:, 1] > -1.4)
            & (head.mean[:, 2] > -0.88)
        )
        spot = canvas.uv[under].mean(0) if under.any() else np.array([FACE / 2, FACE * 0.87])
        plug_paper = np.concatenate([np.broadcast_to(spot, (len(self.plug), 2)), np.zeros((len(self.plug), 1))], 1)
        self.neck_paper = np.concatenate([self.paper, plug_paper])
        self.neck_triangles = np.concatenate([neck_triangles, grid_triangles(8, 25, False) + len(part)])
        self.neck_vertices = np.unique(self.neck_triangles)
        self.wet = np.where(part == SKIN, 1.0, 0.4)

    def draw(self, person: Person, expression: np.ndarray, pose: Pose, size: int) -> Picture:
        """expression [64] -> the person under `pose` in `size` pixels."""
        head, canvas, lights = self.head, self.canvas, person.lights
        posed = pose.apply(head.express(person.neutral, expression), canvas.static)
        normals = vertex_normals(posed, head.triangles)
        layers = person.torso_layers + person.head_layers
        moved = {id(layer): self._place(layer, pose, posed, normals) for layer in layers}
        light = self._skin_light(person, posed, normals, moved)
        (paper, lamp), depth = rasterize(posed, head.triangles, [self.paper, light], size, cull=True)
        colour = self._develop(person.paint, paper, lamp, depth)
        hit, material = depth < FAR, paper[..., 2]
        self._shade_openings(colour, material, hit, lights, posed)
        is_head = hit & (material >= 0.5)

        torso, torso_depth = self._draw_neck(person, pose, posed, normals, size)
        own = hit & ~is_head
        np.copyto(torso, colour, where=own[..., None])
        np.copyto(torso_depth, depth, where=own)
        below = Sheet.start(torso, torso_depth, torso_depth < FAR, NECK)
        above = Sheet.start(colour * is_head[..., None], depth, is_head, FACE_SKIN)
        for layer in person.torso_layers:
            drawn = self._draw_layer(layer, moved[id(layer)], lights, size)
            if drawn is not None:
                below.lay(layer.kind, *drawn)
                above.cut(*drawn)
        for layer in person.head_layers:
            drawn = self._draw_layer(layer, moved[id(layer)], lights, size)
            if drawn is not None:
                above.lay(layer.kind, *drawn)
        mouth = (hit & (material > 2.5)).astype(np.float32)
        return Picture(above.rgb, above.alpha, above.label, below.rgb, below.alpha, below.label, posed, mouth)

    def _skin_light(
        self, person: Person, posed: np.ndarray, normals: np.ndarray, moved: dict[int, tuple]
    ) -> np.ndarray:
        """Light [v, 3] on the head's vertices, with the shadows that head and hair cast, and highlights."""
        head, lights = self.head, person.lights
        mesh, faces = [posed], [head.triangles]
        for layer in person.head_layers:
            if layer.casts:
                faces.append(layer.triangles + sum(len(m) for m in mesh))
                mesh.append(moved[id(layer)][0])
        lit = lit_share(np.concatenate(mesh), np.concatenate(faces), lights.key_from, posed, blur=lights.penumbra)
        light = illuminate(lights, normals, person.shade, lit) * self.inner_light[:, None]
        gloss = np.clip(normals @ half_way(lights), 0, 1) ** 18 * lit * self.wet * lights.shine * lights.key.mean()
        # a highlight adds to the light; divided by the paint it would be multiplied with, it stays white on any skin
        return light + (gloss * self.inner_light)[:, None] / person.tone

    def _draw_neck(self, person: Person, pose: Pose, posed: np.ndarray, normals: np.ndarray, size: int) -> tuple:
        """Neck and shoulders without the head, going on upward inside it, in even light: colour and distance."""
        points = np.concatenate([posed, pose.apply(self.plug, self.plug_static)])
        normals = np.concatenate([normals, pose.turn(self.plug_normal, self.plug_static)])
        even = np.full(len(points), 0.38, np.float32)
        light = illuminate(person.lights, normals, even, 0.8 * even)
        box = bounds(points[self.neck_vertices], size)
        colour = np.zeros((size, size, 3), np.float32)
        depth = np.full((size, size), FAR, np.float32)
        if box is not None:
            (paper, lamp), depth[box] = rasterize(points, self.neck_triangles, [self.neck_paper, light], size, box=box)
            colour[box] = self._develop(person.paint, paper, lamp, depth[box])
        return colour, depth

    def _develop(self, paint: np.ndarray, paper: np.ndarray, lamp: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Painted canvas under light -> sRGB with a soft shoulder; black where nothing was drawn."""
        x, y, w, h = cv2.boundingRect((depth < FAR).astype(np.uint8))
        out = np.zeros_like(lamp)
        if w:
            box = (slice(y, y + h), slice(x, x + w))
            column, row = paper[box][..., 0] - 0.5, paper[box][..., 1] - 0.5
            albedo = cv2.remap(paint, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            out[box] = expose(albedo * lamp[box])
        return out

    def _shade_openings(
        self, colour: np.ndarray, material: np.ndarray, hit: np.ndarray, lights: Lights, posed: np.ndarray
    ) -> None:
        """Lids and lips shade what lies behind them; a window shines in each cornea. In place."""
        size = len(hit)
        inside = hit & (material >= 1.5)
        if not inside.any():
            return
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        margin = size // 32
        box = (
            slice(max(rows[0] - margin, 0), rows[-1] + margin),
            slice(max(columns[0] - margin, 0), columns[-1] + margin),
        )
        cover = (hit[box] & (material[box] < 1.5)).astype(np.float32)
        scale = size / 512
        near = cv2.GaussianBlur(cover, (0, 0), 2.2 * scale)
        above = cv2.GaussianBlur(np.roll(cover, int(4 * scale), 0), (0, 0), 3.0 * scale)
        dark = np.clip(1 - 0.35 * near - 0.55 * above, 0.1, 1)
        region = colour[box]
        region[inside[box]] *= dark[inside[box]][:, None]
        half = lights.key_from * 0.8 + np.array([0, 0.05, 1.0])
        half /= np.linalg.norm(half)
        for label in (LEFT_EYE, RIGHT_EYE):
            own = posed[self.head.part == label]
            centre = 0.5 * (own.min(0) + own.max(0))
            radius = 0.5 * np.ptp(own[:, 1])
            x, y = project((centre + half * radius)[None])[0] * size
            r = int(6 * scale) + 1
            x0, y0 = int(x) - r, int(y) - r
            if x0 < 0 or y0 < 0 or x0 + 2 * r >= size or y0 + 2 * r >= size:
                continue
            view = (slice(y0, y0 + 2 * r), slice(x0, x0 + 2 * r))
            yy, xx = np.mgrid[y0 : y0 + 2 * r, x0 : x0 + 2 * r] + 0.5
            spot = np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * (1.5 * scale) ** 2)) * 0.85
            spot = spot * (hit[view] & (np.abs(material[view] - 2) < 0.4))
            colour[view] += (1 - colour[view]) * spot[..., None].astype(np.float32)

    def _place(self, layer: Layer, pose: Pose, posed: np.ndarray, normals: np.ndarray) -> tuple:
        """Posed vertices, normals and strand directions (or None) of a sheet."""
        if layer.bind is not None:
            n = normals[layer.bind]
            return posed[layer.bind] + n * np.asarray(layer.length)[:, None], n, None
        along = None if layer.tangent is None else pose.turn(layer.tangent, layer.static)
        return pose.apply(layer.rest, layer.static), pose.turn(layer.normals, layer.static), along

    def _draw_layer(self, layer: Layer, placed: tuple, lights: Lights, size: int) -> tuple | None:
        """One sheet of it, lit: (box, rgba and distance there), or None when out of sight."""
        points, normals, along = placed
        box = bounds(points, size)
        if box is None:
            return None
        facing = np.where(normals[:, 2:] < -0.2, -1.0, 1.0) if layer.thin else 1.0
        light = illuminate(lights, normals * facing, layer.shade, 0.3 + 0.7 * layer.shade, wrap=0.3)
        gloss = np.zeros(len(points), np.float32)
        if layer.gloss:
            half = half_way(lights)
            if along is not None:
                gloss = np.clip(1 - (along @ half) ** 2, 0, 1) ** 12 * np.clip(normals @ lights.key_from + 0.2, 0, 1)
            else:
                gloss = np.clip(normals @ half, 0, 1) ** 30
            gloss = gloss * layer.gloss * lights.key.mean()
        texture = layer.texture
        paper = np.concatenate([layer.uv, gloss[:, None]], 1)
        if layer.grid is not None:
            # vertices are a grid over the texture: light that, and draw once instead of twice
            shape = (texture.shape[1], texture.shape[0])
            both = np.concatenate([light, gloss[:, None]], 1).astype(np.float32).reshape(*layer.grid, 4)
            both = np.asarray(cv2.resize(both, shape, interpolation=cv2.INTER_LINEAR))
            lit = texture[..., :3] * both[..., :3]
            if layer.gloss:
                lit += both[..., 3:] * layer.sheen
            texture = np.concatenate([expose(lit), texture[..., 3:]], 2)
            (sheet,), depth = rasterize(points, layer.triangles, [paper], size, box=box)
        else:
            (sheet, lamp), depth = rasterize(points, layer.triangles, [paper, light], size, box=box)
        column, row = np.ascontiguousarray(sheet[..., 0]), np.ascontiguousarray(sheet[..., 1])
        rgba = cv2.remap(texture, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if layer.grid is None:
            rgba[..., :3] = expose(rgba[..., :3] * lamp + sheet[..., 2:])
        rgba[..., 3] *= depth < FAR
        return box, rgba, depth


def half_way(lights: Lights) -> np.ndarray:
    """Unit vector between the key light and the camera."""
    half = lights.key_from + np.array([0, 0, 1.0])
    return half / np.linalg.norm(half)


def expose(linear: np.ndarray) -> np.ndarray:
    """Linear light -> sRGB-like 0..1: gamma 2 with a shoulder above 0.8. Works in the array it is given."""
    np.maximum(linear, 0, out=linear)
    np.sqrt(linear, out=linear)
    over = linear - np.float32(0.8)
    np.maximum(over, 0, out=over)
    np.minimum(linear, 0.8, out=linear)
    linear += over / (1 + 5 * over)
    return linear
