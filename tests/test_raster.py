"""The rasteriser against a brute-force one that tests every pixel against every triangle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r3p.raster import interpolate, rasterize, rasterize_batch


def brute_force(points, triangles, size, *, perspective):
    """Triangle ids [h, w] by the written rule: 1/16 px, top-left, nearest, then lowest id."""
    h, w = size
    snapped = np.round((points[:, :2] - [w / 2, h / 2]) * 16).astype(np.int64)
    px = (np.arange(w) * 16 + 8 - w * 8)[None]
    py = (np.arange(h) * 16 + 8 - h * 8)[:, None]
    nearest, owner = np.full((h, w), np.inf), np.full((h, w), -1)
    value = -1 / points[:, 2].astype(np.float64) if perspective else points[:, 2].astype(np.float64)
    for t, corner in enumerate(triangles):
        a, b, c = snapped[corner]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area == 0:
            continue
        order = (0, 1, 2) if area > 0 else (0, 2, 1)
        p, v = snapped[corner[list(order)]], value[corner[list(order)]]
        inside, key = np.ones((h, w), bool), np.zeros((h, w))
        for k in range(3):
            s, e = p[(k + 1) % 3], p[(k + 2) % 3]
            d = e - s
            edge = d[0] * (py - s[1]) - d[1] * (px - s[0])
            inside &= (edge > 0) | ((edge == 0) & ((d[1] < 0) | (d[1] == 0 and d[0] > 0)))
            key += edge / abs(area) * v[k]
        wins = inside & (key < nearest)
        nearest[wins], owner[wins] = key[wins], t
    return owner


def bumpy_sphere(n, rng):
    """A closed mesh with triangles of all sizes: the hull of random points."""
    from scipy.spatial import ConvexHull

    p = rng.normal(size=(n, 3))
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    return p * (1 + 0.1 * rng.random((n, 1))), ConvexHull(p).simplices.astype(np.int32)


@pytest.mark.parametrize(("size", "perspective"), [((256, 256), True), ((512, 512), True), ((96, 160), False)])
def test_same_pixels_as_brute_force(size, perspective):
    rng = np.random.default_rng(size[1])
    shape, triangles = bumpy_sphere(60, rng)
    other, more = bumpy_sphere(20, rng)
    mesh = np.concatenate([shape, 0.8 * other + [0.5, 0.2, 0.4]])
    triangles = np.concatenate([triangles, more + len(shape)])
    depth = 5 - mesh[:, 2]
    xy = mesh[:, :2] * (5 / depth[:, None] if perspective else 1) * min(size) * 0.55 + np.array(size[::-1]) / 2
    points = np.concatenate([xy, depth[:, None]], 1).astype(np.float32)
    expected = brute_force(points, triangles, size, perspective=perspective)
    found = np.asarray(rasterize(points, triangles, size=size, perspective=perspective, chunk=4096).triangle)
    assert (expected >= 0).mean() > 0.3
    assert (expected != found).sum() == 0


def test_shared_edges_are_drawn_once():
    """A grid of squares whose corners lie on pixel centres, edges and in between: no gap, no pixel twice."""
    step = np.array([0, 3.5, 8, 12.5, 20, 31.03125, 40])
    x, y = np.meshgrid(step, step)
    points = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], 1).astype(np.float32)
    n = len(step)
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    triangles = np.concatenate(
        [np.stack([corner, corner + 1, corner + n], 1), np.stack([corner + n + 1, corner + 1, corner + n], 1)]
    ).astype(np.int32)
    hits = sum(
        np.asarray(rasterize(points, triangles[k : k + 1], size=(48, 48)).triangle) >= 0 for k in range(len(triangles))
    )
    assert (hits[:40, :40] == 1).all()
    assert hits.sum() == 1600


def test_large_triangles_and_ties():
    """Triangles far larger than the picture, one on top of its copy: the lower index wins everywhere."""
    points = np.array([[-400, -300, 2], [900, -200, 3], [100, 700, 5]], np.float32)
    triangles = np.array([[0, 2, 1], [0, 1, 2]], np.int32)
    triangle = np.asarray(rasterize(points, triangles, size=(512, 512), chunk=1 << 14).triangle)
    expected = brute_force(points, triangles[:1], (512, 512), perspective=True)
    assert (triangle == expected).all() and (triangle == 0).mean() > 0.8


def test_perspective_correct_weights():
    """A plane in space: interpolated positions must lie on each pixel's ray, depth on the plane."""
    corners = np.array([[-1, -1, 0], [2, -1, 3], [-1, 2, 1.0]])
    depth = 6 - corners[:, 2]
    points = np.stack([corners[:, 0] / depth * 100 + 50, 50 - corners[:, 1] / depth * 100, depth], 1)
    raster = rasterize(points.astype(np.float32), np.array([[0, 1, 2]]), size=(100, 100))
    place = np.asarray(interpolate(raster, np.array([[0, 1, 2]]), corners.astype(np.float32), np.nan))
    y, x = np.nonzero(np.asarray(raster.triangle) == 0)
    p = place[y, x]
    np.testing.assert_allclose(p[:, 0] / (6 - p[:, 2]) * 100 + 50, x + 0.5, atol=2e-3)
    np.testing.assert_allclose(50 - p[:, 1] / (6 - p[:, 2]) * 100, y + 0.5, atol=2e-3)
    np.testing.assert_allclose(np.asarray(raster.depth)[y, x], 6 - p[:, 2], rtol=1e-5)
    assert np.isnan(place[np.asarray(raster.triangle) < 0]).all()


def test_undrawable_triangles_are_left_out():
    points = np.array([[10, 10, 1], [30, 10, 1], [10, 30, 1], [10, 10, -1], [5000, 0, 1], [20, 20, 1]], np.float32)
    triangles = np.array([[3, 1, 2], [0, 4, 2], [0, 0, 1], [0, 5, 5]], np.int32)  # behind, far outside, no area
    assert (np.asarray(rasterize(points, triangles, size=(40, 40)).triangle) == -1).all()
    with pytest.raises(ValueError, match="at most"):
        rasterize(points, triangles, size=(4096, 16))


def test_batch_and_gradients():
    points = np.array([[5, 5, 1], [25, 6, 2], [8, 28, 1.5]], np.float32)
    triangles = np.array([[0, 1, 2]], np.int32)
    batch = rasterize_batch(jnp.stack([points, points + np.float32([3, 0, 0])]), triangles, size=(32, 32))
    alone = rasterize(points, triangles, size=(32, 32))
    np.testing.assert_array_equal(batch.triangle[0], alone.triangle)
    assert batch.weights.shape == (2, 32, 32, 3)

    def total(p):
        return interpolate(rasterize(p, triangles, size=(32, 32)), triangles, p).sum()

    grad = jax.grad(total)(jnp.asarray(points))
    assert np.isfinite(grad).all() and np.abs(grad).max() > 1
