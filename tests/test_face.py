"""The parametric face: conventions against the cameras, the built-in head's facts, PNCC, the BFM reader."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from r3p import camera, face
from r3p.errors import InputError


@pytest.fixture(scope="module")
def model():
    return face.load_face_model()


def coefficients(model, seed=0, **units):
    rng = np.random.default_rng(seed)
    expression = np.zeros(len(model.expression), np.float32)
    for name, value in units.items():
        expression[model.unit(name)] = value
    return rng.normal(size=len(model.identity)).astype(np.float32) * 0.7, expression


def test_head_holds_what_it_says(model):
    assert model.identity.shape == (80, *model.mean.shape) and model.expression.shape == (64, *model.mean.shape)
    assert list(model.expression_names[:52]) == sorted(model.expression_names[:52], key=str)
    eyes = model.mean[(model.part == 1) | (model.part == 2)].mean(0)
    np.testing.assert_allclose(eyes[:2], [0, 0.10], atol=1e-3)
    skull = 0.27 * model.mean[(model.static == 0) & (model.part == 0)] + [0, 0.006, 0.161]
    assert np.abs(skull).max() < 0.5  # inside the tri-plane's box
    np.testing.assert_allclose(skull[:, 2].max() + skull[:, 2].min(), 0, atol=1e-3)
    np.testing.assert_allclose(model.mp_weights.sum(1), 1, atol=1e-5)
    left, right = model.mean[model.part == 1], model.mean[model.part == 2]
    assert left[:, 0].min() > 0 > right[:, 0].max()


def test_units_move_what_they_name(model):
    def points(**units):
        return face.landmarks(model, face.vertices(model, *coefficients(model, 1, **units)))

    rest, jaw = points(), points(jawOpen=0.5)
    assert face.lip_gap(rest) < 0.08 and face.lip_gap(jaw) > face.lip_gap(rest) + 0.1
    for upper, lower in ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402)):  # the contour opens all along
        assert jaw[upper, 1] - jaw[lower, 1] > rest[upper, 1] - rest[lower, 1] + 0.03
    blink = face.eye_gap(points(eyeBlinkLeft=1))  # the person's left is the right of the picture
    assert blink[1] < 0.45 * face.eye_gap(rest)[1] and blink[0] == pytest.approx(face.eye_gap(rest)[0], rel=0.05)
    smile = points(mouthSmileLeft=1)
    assert smile[291, 1] > rest[291, 1] + 0.05 and abs(smile[61, 1] - rest[61, 1]) < 0.02
    with pytest.raises(InputError, match="jawopen"):
        model.unit("jawopen")


def test_landmarks_are_symmetric_and_ordered(model):
    p = face.landmarks(model, model.mean)
    np.testing.assert_allclose(p[[10, 1, 4, 0, 13, 14, 17, 152], 0], 0, atol=2e-3)
    for a, b in ((33, 263), (133, 362), (61, 291), (234, 454), (78, 308), (70, 300)):
        np.testing.assert_allclose(p[a], p[b] * [-1, 1, 1], atol=5e-3)
    heights = p[[10, 9, 168, 4, 0, 13, 14, 17, 152], 1]
    assert (np.diff(heights) < 0).all()
    k = face.keypoints68(model, *coefficients(model), np.zeros(3), np.zeros(3))
    assert k.shape == (68, 3) and (k[:, 2] == 0).all()
    assert k[0, 0] < k[16, 0] and k[8, 1] > k[27, 1]  # image left to right, y down


def test_projection_is_the_volume_camera(model):
    """A point seen by `camera.from_pose` lands where `project` puts the posed point."""
    rng = np.random.default_rng(3)
    points = model.mean[rng.integers(0, len(model.mean), 50)].astype(np.float64)
    euler, trans = np.array([0.2, -0.4, 0.1]), np.array([0.1, -0.2, -1.5])
    flat = face.project(face.pose(points, euler, trans))
    cam = camera.from_pose(euler, trans)
    pose, intrinsics = cam[:16].reshape(4, 4), cam[16:].reshape(3, 3)
    world = 0.27 * points + [0, 0.006, 0.161]
    seen = (world - pose[:3, 3]) @ pose[:3, :3]
    uv = (seen / seen[:, 2:]) @ intrinsics.T
    np.testing.assert_allclose(flat, uv[:, :2], atol=1e-6)
    assert flat[points[:, 1].argmax(), 1] < flat[points[:, 1].argmin(), 1]


def test_numpy_and_jax_agree(model):
    identity, expression = coefficients(model, 2, jawOpen=0.3)
    euler, trans = np.float32([0.1, 0.3, -0.2]), np.float32([0, 0, -2])
    a = face.keypoints68(model, identity, expression, euler, trans)
    b = face.keypoints68(model, jnp.asarray(identity), jnp.asarray(expression), jnp.asarray(euler), jnp.asarray(trans))
    assert isinstance(a, np.ndarray) and isinstance(b, jax.Array)
    np.testing.assert_allclose(a, b, atol=2e-5)
    batch = face.vertices(model, np.stack([identity] * 2), np.stack([expression] * 2))
    np.testing.assert_allclose(batch[1], face.vertices(model, identity, expression), atol=1e-5)


def test_gradients_are_finite(model):
    identity, expression = (jnp.asarray(c) for c in coefficients(model))

    def loss(identity, expression, euler, trans):
        mesh = face.vertices(model, identity, expression)
        points = face.landmarks(model, mesh)
        flat = face.project(face.pose(points, euler, trans))
        return (flat**2).sum() + face.lip_gap(flat) + face.eye_gap(flat).sum()

    grads = jax.grad(loss, argnums=(0, 1, 2, 3))(identity, expression, jnp.zeros(3), jnp.zeros(3))
    assert all(bool(jnp.isfinite(g).all()) and float(jnp.abs(g).max()) > 0 for g in grads)


def holes(picture):
    """Background pixels that are not connected to the picture's border, as labels with sizes and centres."""
    import cv2

    empty = (picture == -1).all(-1).astype(np.uint8)
    count, labels, stats, centres = cv2.connectedComponentsWithStats(empty, connectivity=4)
    keep = [k for k in range(1, count) if k != labels[0, 0] and stats[k, cv2.CC_STAT_AREA] > 8]
    return sorted((tuple(centres[k]), int(stats[k, cv2.CC_STAT_AREA])) for k in keep)


@pytest.mark.parametrize("frame", ["box", "official"])
def test_pncc(model, frame):
    size = 192
    identity, expression = coefficients(model, 4)
    opened = coefficients(model, 4, jawOpen=0.5, eyeBlinkLeft=1)[1]
    maps = np.asarray(
        face.pncc(model, np.stack([identity] * 2), np.stack([expression, opened]), size=size, frame=frame)
    )
    assert maps.shape == (2, size, size, 3) and maps.dtype == np.float32
    assert maps.min() == -1 and 0.9 < maps.max() <= 1
    assert (maps[:, 0, 0] == -1).all() and (maps[:, -1, -1] == -1).all()
    middle = maps[0, size // 2]
    x = middle[(middle != -1).any(-1), 0]
    assert x[0] < -0.5 and x[-1] > 0.5  # code x grows to the right, as the head's x does
    rest, moved = holes(maps[0]), holes(maps[1])
    assert len([h for h in rest if h[0][1] < size / 2 + 10]) == 2  # both eyes
    eyes, mouth = [h for h in moved if h[0][1] < size / 2 + 10], [h for h in moved if h[0][1] > size / 2 + 10]
    assert len(eyes) == 1 and eyes[0][0][0] < size / 2  # the person's left eye, on the right, has closed
    assert len(mouth) == 1 and mouth[0][1] > 40 and abs(mouth[0][0][0] - size / 2) < 4


def test_box_frame_is_pixel_aligned_with_the_frontal_plane(model):
    """The pixel of a vertex is the one of its world x and y in the box."""
    size = 256
    zero = np.zeros(80, np.float32), np.zeros(64, np.float32)
    picture = np.asarray(face.pncc(model, *zero, size=size, frame="box"))
    tip = int(model.mean[:, 2].argmax())  # the nose: in front of everything else
    world = 0.27 * model.mean[tip] + [0, 0.006, 0.161]
    column, row = int((world[0] + 0.5) * size), int((0.5 - world[1]) * size)
    np.testing.assert_allclose(picture[row, column], 2 * model.ncc[tip] - 1, atol=0.05)
    with pytest.raises(ValueError, match="frame"):
        face.pncc(model, *zero, size=16, frame="front")


def write_bfm(folder, n=20, triangles=30):
    rng = np.random.default_rng(0)
    tri = np.stack([rng.permutation(n)[:3] + 1 for _ in range(triangles)])
    mat = {
        "meanshape": rng.normal(size=(1, 3 * n)), "idBase": rng.normal(size=(3 * n, 80)),
        "exBase": rng.normal(size=(3 * n, 64)), "tri": tri, "keypoints": rng.integers(1, n - 1, (1, 68)),
    }  # fmt: skip
    scipy.io.savemat(folder / "BFM_model_front.mat", mat)
    np.save(folder / "ncc_code.npy", rng.random((3, n)))
    np.save(folder / "bfm_left_eye_faces.npy", np.array([1, 2]))
    np.save(folder / "bfm_right_eye_faces.npy", np.array([5]))
    np.save(folder / "index_mp468_from_mesh35709.npy", np.where(np.arange(468) == 93, -999, np.arange(468) % n))
    return mat


def test_bfm_reader(tmp_path):
    with pytest.raises(InputError, match=r"BFM_model_front\.mat"):
        face.from_bfm(tmp_path)
    mat = write_bfm(tmp_path)
    bfm = face.from_bfm(tmp_path)
    np.testing.assert_allclose(bfm.mean.mean(0), 0, atol=1e-6)
    identity = np.zeros(80, np.float32)
    identity[3] = 2
    moved = face.vertices(bfm, identity, np.zeros(64, np.float32)) - bfm.mean
    np.testing.assert_allclose(moved.ravel(), 2 * mat["idBase"][:, 3], atol=1e-5)
    np.testing.assert_array_equal(bfm.lm68_corners[:, 0], mat["keypoints"][0])
    np.testing.assert_array_equal(face.from_bfm(tmp_path, landmarks_of_release=False).lm68_corners[:, 0],
                                  mat["keypoints"][0] - 1)  # fmt: skip
    assert bfm.mp_weights[93].sum() == 0 and bfm.mp_weights.sum() == 467
    assert len(bfm.pncc_triangles) == 27
    np.testing.assert_array_equal(bfm.pncc_vertices[bfm.pncc_triangles], np.delete(mat["tri"] - 1, [0, 1, 4], axis=0))
    assert face.pncc(bfm, identity, np.zeros(64, np.float32), size=32).shape == (32, 32, 3)
    np.save(tmp_path / "ncc_code.npy", np.zeros((3, 7)))
    with pytest.raises(InputError, match="shape"):
        face.from_bfm(tmp_path)
