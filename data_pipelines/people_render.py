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
    """One frame at twice the size asked for. Colours sRGB float 0..1, head premultiplied by its coverage."""

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


class Renderer:
    """Draws persons at a fixed size; holds what does not change between persons."""

    def __init__(self, head: Head, canvas: Canvas, size: int):
        self.head, self.canvas, self.size = head, canvas, 2 * size
        part = head.part
        skin_triangle = part[head.triangles[:, 0]] == SKIN
        neck = skin_triangle & (canvas.face_weight[head.triangles].min(1) < 0.5) & ~canvas.ears[head.triangles].any(1)
        self.torso_triangles = head.triangles[neck & (head.mean[head.triangles][:, :, 1].max(1) < -0.35)]
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
        self.plug_triangles = grid_triangles(8, 25, False)
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
        self.plug_paper = np.concatenate([np.broadcast_to(spot, (len(self.plug), 2)), np.zeros((len(self.plug), 1))], 1)

    def draw(self, person: Person, expression: np.ndarray, pose: Pose) -> Picture:
        """expression [64] -> the person under `pose`."""
        head, canvas, lights, n = self.head, self.canvas, person.lights, self.size
        rest = head.express(person.neutral, expression)
        posed = pose.apply(rest, canvas.static)
        normals = vertex_normals(posed, head.triangles)
        casters = [layer for layer in person.head_layers if layer.extra.get("casts")]
        moved = {
            id(layer): self._place(layer, pose, posed, normals) for layer in person.torso_layers + person.head_layers
        }
        mesh, faces = [posed], [head.triangles]
        for layer in casters:
            faces.append(layer.triangles + sum(map(len, mesh)))
            mesh.append(moved[id(layer)][0])
        lit = lit_share(np.concatenate(mesh), np.concatenate(faces), lights.key_from, posed, blur=lights.penumbra)
        light = illuminate(lights, normals, person.shade, lit) * self.inner_light[:, None]
        half = lights.key_from + np.array([0, 0, 1.0])
        half /= np.linalg.norm(half)
        gloss = (
            np.clip(normals @ half, 0, 1) ** 18
            * lit
            * lights.shine
            * lights.key.mean()
            * np.where(head.part == SKIN, 1.0, 0.4)
        )
        # a highlight adds to the light; divided by the paint it would be multiplied with, it stays white on any skin
        light += (gloss * self.inner_light)[:, None] / person.tone
        (paper, lamp), depth = rasterize(posed, head.triangles, [self.paper, light], n, cull=True)
        colour = self._develop(person.paint, paper, lamp, depth)
        hit = depth < FAR
        material = paper[..., 2]
        self._shade_openings(colour, material, hit, lights, posed)
        is_head = hit & (material >= 0.5)

        points = np.concatenate([posed, pose.apply(self.plug, self.plug_static)])
        plug_normals = pose.turn(self.plug_normal, self.plug_static)
        plug_light = illuminate(
            lights, plug_normals, np.full(len(self.plug), 0.35, np.float32), np.full(len(self.plug), 0.3, np.float32)
        )
        triangles = np.concatenate([self.torso_triangles, self.plug_triangles + len(posed)])
        papers = np.concatenate([self.paper, self.plug_paper])
        dim = illuminate(lights, normals, np.full(len(posed), 0.4, np.float32), np.full(len(posed), 0.3, np.float32))
        (paper2, lamp2), torso_depth = rasterize(points, triangles, [papers, np.concatenate([dim, plug_light])], n)
        torso = self._develop(person.paint, paper2, lamp2, torso_depth)
        own = hit & ~is_head
        torso[own] = colour[own]
        torso_depth[own] = depth[own]
        torso_hit = torso_depth < FAR
        torso[~torso_hit] = 0
        torso_alpha = torso_hit.astype(np.float32)
        torso_label = np.where(torso_hit, NECK, 0).astype(np.uint8)

        head_rgb = colour * is_head[..., None]
        head_alpha = is_head.astype(np.float32)
        head_label = np.where(is_head, FACE_SKIN, 0).astype(np.uint8)
        nearest = np.where(is_head, depth, np.where(hit, depth, FAR))
        for layer in person.torso_layers:
            box, rgba, d = self._sheet(layer, moved[id(layer)], lights)
            if box is None:
                continue
            front = (d < torso_depth[box]) * rgba[..., 3]
            torso[box] += (rgba[..., :3] - torso[box]) * front[..., None]
            torso_alpha[box] += (1 - torso_alpha[box]) * front
            torso_label[box][front > 0.5] = layer.kind
            torso_depth[box][front > 0.5] = d[front > 0.5]
            over = (d < nearest[box]) * rgba[..., 3]
            head_rgb[box] *= 1 - over[..., None]
            head_alpha[box] *= 1 - over
            head_label[box][over > 0.5] = 0
            nearest[box][over > 0.5] = d[over > 0.5]
        for layer in person.head_layers:
            box, rgba, d = self._sheet(layer, moved[id(layer)], lights)
            if box is None:
                continue
            a = (d < nearest[box]) * rgba[..., 3]
            head_rgb[box] += (rgba[..., :3] - head_rgb[box]) * a[..., None]
            head_alpha[box] += (1 - head_alpha[box]) * a
            head_label[box][a > 0.5] = layer.kind
            nearest[box][a > 0.6] = d[a > 0.6]
        mouth = (hit & (material > 2.5)).astype(np.float32)
        return Picture(head_rgb, head_alpha, head_label, torso, torso_alpha, torso_label, posed, mouth)

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
        inside = hit & (material >= 1.5)
        if not inside.any():
            return
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        margin = self.size // 32
        box = (
            slice(max(rows[0] - margin, 0), rows[-1] + margin),
            slice(max(columns[0] - margin, 0), columns[-1] + margin),
        )
        cover = (hit[box] & (material[box] < 1.5)).astype(np.float32)
        scale = self.size / 512
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
            x, y = project((centre + half * radius)[None])[0] * self.size
            r = int(6 * scale) + 1
            x0, y0 = int(x) - r, int(y) - r
            if x0 < 0 or y0 < 0 or x0 + 2 * r >= self.size or y0 + 2 * r >= self.size:
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
            return posed[layer.bind] + n * layer.extra["length"][:, None], n, None
        if "normals" not in layer.extra:
            layer.extra["normals"] = vertex_normals(layer.rest, layer.triangles)
        along = None if layer.tangent is None else pose.turn(layer.tangent, layer.static)
        return pose.apply(layer.rest, layer.static), pose.turn(layer.extra["normals"], layer.static), along

    def _sheet(self, layer: Layer, placed: tuple, lights: Lights) -> tuple:
        """Draw one sheet: (box, rgba of the box, depth of the box), or Nones when out of sight."""
        points, normals, along = placed
        box = bounds(points, self.size)
        if box is None:
            return None, None, None
        facing = np.where(normals[:, 2:] < -0.2, -1.0, 1.0) if layer.extra.get("thin") else 1.0
        shade = layer.shade if layer.shade is not None else np.full(len(points), 0.8, np.float32)
        light = illuminate(lights, normals * facing, shade, np.clip(0.3 + 0.7 * shade, 0, 1), wrap=0.3)
        gloss = np.zeros(len(points), np.float32)
        if layer.gloss:
            half = lights.key_from + np.array([0, 0, 1.0])
            half /= np.linalg.norm(half)
            if along is not None:
                gloss = np.clip(1 - (along @ half) ** 2, 0, 1) ** 12 * np.clip(normals @ lights.key_from + 0.2, 0, 1)
            else:
                gloss = np.clip(normals @ half, 0, 1) ** 30
            gloss = (gloss * layer.gloss * lights.key.mean()).astype(np.float32)
        paper = np.concatenate([layer.uv, gloss[:, None]], 1)
        (sheet, lamp), depth = rasterize(points, layer.triangles, [paper, light], self.size, box=box)
        column, row = np.ascontiguousarray(sheet[..., 0]), np.ascontiguousarray(sheet[..., 1])
        rgba = cv2.remap(layer.texture, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        rgba[..., :3] = expose(rgba[..., :3] * lamp + sheet[..., 2:] * np.sqrt(rgba[..., :3] + 0.02))
        rgba[..., 3] *= depth < FAR
        return box, rgba, depth


def expose(linear: np.ndarray) -> np.ndarray:
    """Linear light -> sRGB-like 0..1, gamma 2 with a shoulder above 0.8."""
    out = np.sqrt(np.maximum(linear, 0, out=linear), out=linear)
    high = out > 0.8
    out[high] = 0.8 + 0.2 * (1 - np.exp(-(out[high] - 0.8) / 0.2))
    return out
