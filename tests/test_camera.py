import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from r3p import camera
from r3p.errors import InputError


def test_zero_pose_is_frontal():
    cam = camera.from_pose(np.zeros(3), np.zeros(3))
    pose, intrinsics = camera.split(cam)
    assert cam.shape == (25,)
    np.testing.assert_allclose(pose[:3, 3], [0, 0.006, 2.861], atol=1e-6)
    np.testing.assert_allclose(pose[:3, :3], np.diag([1, -1, -1]), atol=1e-7)
    np.testing.assert_allclose(intrinsics, [[camera.FOCAL, 0, 0.5], [0, camera.FOCAL, 0.5], [0, 0, 1]], rtol=1e-6)


def test_volume_and_mesh_projection_coincide():
    rng = np.random.default_rng(0)
    euler, trans = rng.normal(0, 0.4, (7, 3)), rng.normal(0, 0.5, (7, 3))
    points = rng.normal(0, 1, (7, 5, 3))
    v = np.einsum("bij,bnj->bni", camera.rotation(euler), points) + trans[:, None]
    mesh = np.stack(
        [camera.FOCAL * v[..., 0] / (10 - v[..., 2]) + 0.5, 0.5 - camera.FOCAL * v[..., 1] / (10 - v[..., 2])], -1
    )
    pose, intrinsics = camera.split(camera.from_pose(euler, trans))
    world = camera.WORLD_SCALE * points + np.asarray(camera.WORLD_OFFSET)
    seen = np.einsum("bji,bnj->bni", pose[:, :3, :3], world - pose[:, None, :3, 3])
    image = np.einsum("bij,bnj->bni", intrinsics, seen / seen[..., 2:])
    np.testing.assert_allclose(image[..., :2], mesh, atol=1e-9)


def test_rotation_is_rz_ry_rx():
    x, y, z = 0.3, -0.5, 0.2
    rx = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rz = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    np.testing.assert_allclose(camera.rotation(np.array([x, y, z])), rz @ ry @ rx, atol=1e-12)


def test_rays_start_row_major_at_pixel_centres():
    cam = camera.from_pose(np.zeros((1, 3)), np.zeros((1, 3)))
    origins, directions = camera.rays(cam, 4)
    assert origins.shape == directions.shape == (1, 16, 3)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-6)
    first, second = directions[0, 0] / -directions[0, 0, 2], directions[0, 1] / -directions[0, 1, 2]
    np.testing.assert_allclose(first[:2], [(0.125 - 0.5) / camera.FOCAL, -(0.125 - 0.5) / camera.FOCAL], atol=1e-6)
    assert second[0] > first[0] and np.isclose(second[1], first[1])


def test_numpy_and_jax_agree():
    u = np.random.default_rng(1).random((3, 3), np.float32)
    host, device = camera.sample(u), jax.jit(camera.sample)(jnp.asarray(u))
    assert isinstance(host, np.ndarray) and host.dtype == np.float32
    np.testing.assert_allclose(host, device, atol=2e-6)
    for a, b in zip(camera.rays(host, 5), jax.jit(camera.rays, static_argnums=1)(device, 5), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_pose_gradient_is_finite():
    grad = jax.grad(lambda e: camera.from_pose(e, jnp.zeros(3)).sum())(jnp.array([0.1, 0.2, 0.3]))
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0


def test_angles_follow_eg3d():
    cam = camera.from_angles(np.float32(0), np.float32(0), 2.7, (0, 0, 0))
    pose, _ = camera.split(cam)
    np.testing.assert_allclose(pose, [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]], atol=1e-6)
    lower = camera.from_angles(np.float32(0.3), np.float32(0), 2.7)
    aside = camera.from_angles(np.float32(0), np.float32(0.3), 2.7)
    assert lower[7] < 0 < aside[3]


def test_look_at_puts_the_target_in_the_middle():
    target = np.array([0.05, -0.02, 0.1])
    pose, _ = camera.split(camera.look_at(np.array([0.7, 0.3, 2.5]), target))
    seen = pose[:3, :3].T @ (target - pose[:3, 3])
    np.testing.assert_allclose(seen[:2], 0, atol=1e-7)
    np.testing.assert_allclose(np.linalg.det(pose[:3, :3]), 1, atol=1e-6)
    assert seen[2] > 0 > pose[1, 1]


def test_sampled_cameras_keep_their_ranges():
    cam = camera.sample(np.random.default_rng(2).random((200, 3)))
    distance = np.linalg.norm(cam[:, [3, 7, 11]], axis=-1)
    assert distance.min() >= 2.7 and distance.max() <= 4.0
    around = camera.orbit(8)
    assert around.shape == (8, 25) and np.allclose(around[:, 3].mean(), 0, atol=1e-6)


def test_wrong_camera_is_named():
    with pytest.raises(InputError, match="25 numbers"):
        camera.split(np.zeros((1, 16)))


def test_rays_match_the_golden_case():
    case = parity.FOLDER.case("render_white_back")
    origins, directions = camera.rays(case.inputs["camera"], 32)
    parity.check(case, "ray_origins", origins)
    parity.check(case, "ray_directions", directions)


@pytest.mark.parametrize("resolution", [64, 105, 128])
def test_compiled_rays_are_those_of_numpy(resolution):
    cam = camera.from_pose(np.float32([[0.1, 0.2, 0.05]]), np.zeros((1, 3), np.float32))
    mine = jax.jit(camera.rays, static_argnums=1)(cam, resolution)
    for a, b in zip(mine, camera.rays(cam, resolution), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
