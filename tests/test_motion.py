"""Poses and expressions: composition, repetition, smoothing, files and their errors."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from r3p import camera
from r3p.errors import InputError
from r3p.motion import (
    Poses,
    add_offset,
    blink_closure,
    box_smooth,
    edit_expression,
    hold_depth,
    map_to_initial,
    orbit,
    ping_pong,
    read_expression,
    read_poses,
    repeat,
    smooth_cameras,
    static,
    write_poses,
)

NAMES = ("jawOpen", "mouthSmileLeft", "mouthSmileRight", "eyeBlinkLeft", *(f"unit{k}" for k in range(60)))
SOURCE = np.array([0.1, -0.3, 0.05]), np.array([0.02, -0.1, 0.4])


def _random_poses(n=20, seed=0):
    rng = np.random.default_rng(seed)
    return Poses(rng.normal(0, 0.3, (n, 3)), rng.normal(0, 0.1, (n, 3)))


def test_static_and_orbit():
    held = static(*SOURCE, 5)
    np.testing.assert_array_equal(held.euler, np.tile(SOURCE[0], (5, 1)))
    swing = orbit(*SOURCE, 101, fps=25, yaw=np.radians(20), period=4)
    np.testing.assert_allclose(swing.euler[[0, 50, 100]], np.tile(SOURCE[0], (3, 1)), atol=1e-12)
    turns = camera.rotation(swing.euler) @ camera.rotation(SOURCE[0]).T
    angles = np.degrees(Rotation.from_matrix(turns).as_rotvec())
    np.testing.assert_allclose(angles[25], [0, 20, 0], atol=1e-9)
    np.testing.assert_allclose(angles[75], [0, -20, 0], atol=1e-9)


def test_ping_pong_shows_the_ends_once():
    np.testing.assert_array_equal(ping_pong(4, 10), [0, 1, 2, 3, 2, 1, 0, 1, 2, 3])
    np.testing.assert_array_equal(ping_pong(4, 10, doubled_ends=True), [0, 1, 2, 3, 3, 2, 1, 0, 0, 1])
    np.testing.assert_array_equal(ping_pong(1, 3), [0, 0, 0])
    np.testing.assert_array_equal(ping_pong(5, 2), [0, 1])
    assert len(repeat(_random_poses(3), 100)) == 100
    with pytest.raises(InputError, match="no pose to repeat"):
        ping_pong(0, 3)


def test_map_to_initial_composes_rotations():
    poses = _random_poses()
    out = map_to_initial(poses, *SOURCE)
    np.testing.assert_allclose(out.euler[0], SOURCE[0], atol=1e-12)
    np.testing.assert_allclose(out.trans[0], SOURCE[1], atol=1e-12)
    m = camera.rotation(poses.euler)
    np.testing.assert_allclose(camera.rotation(out.euler), m @ m[0].T @ camera.rotation(SOURCE[0]), atol=1e-12)
    np.testing.assert_allclose(out.trans - out.trans[0], poses.trans - poses.trans[0], atol=1e-12)
    # Motion from the source's own pose is that motion itself.
    np.testing.assert_allclose(map_to_initial(poses, poses.euler[0], poses.trans[0]).euler, poses.euler, atol=1e-12)


def test_map_to_initial_scales_and_knows_the_official_way():
    poses = _random_poses()
    still = map_to_initial(poses, *SOURCE, scale=0)
    np.testing.assert_allclose(still.euler, np.tile(SOURCE[0], (20, 1)), atol=1e-12)
    official = map_to_initial(poses, *SOURCE, componentwise=True)
    np.testing.assert_allclose(official.euler, poses.euler + SOURCE[0] - poses.euler[0], atol=1e-12)
    small = Poses(poses.euler * 1e-3, poses.trans)
    a = map_to_initial(small, np.zeros(3), SOURCE[1]).euler
    np.testing.assert_allclose(a, map_to_initial(small, np.zeros(3), SOURCE[1], componentwise=True).euler, atol=2e-6)


def test_euler_survives_a_quarter_turn():
    poses = Poses(np.array([[0.0, 0, 0], [0.0, np.pi / 2, 0]]), np.zeros((2, 3)))
    out = map_to_initial(poses, np.array([0.2, 0, 0.1]), np.zeros(3))
    m = camera.rotation(poses.euler)
    want = m @ camera.rotation(np.array([0.2, 0, 0.1]))
    np.testing.assert_allclose(camera.rotation(out.euler), want, atol=1e-7)
    locked = map_to_initial(poses, np.zeros(3), np.zeros(3))
    np.testing.assert_allclose(camera.rotation(locked.euler), m, atol=1e-7)


def test_depth_and_offsets():
    poses = _random_poses()
    assert np.ptp(hold_depth(poses).trans[:, 2]) == 0 and np.ptp(poses.trans[:, 2]) > 0
    np.testing.assert_allclose(add_offset(poses, yaw=0.2).euler - poses.euler, np.tile([0, 0.2, 0], [20, 1]), atol=1e-9)
    with pytest.raises(ValueError, match="expected both"):
        Poses(np.zeros((3, 3)), np.zeros((2, 3)))


def test_smoothed_cameras_stay_cameras():
    poses = _random_poses(12)
    cameras = np.asarray(camera.from_pose(poses.euler, poses.trans), np.float32)
    out = smooth_cameras(cameras)
    assert out.shape == cameras.shape and out.dtype == np.float32
    to_world, _ = camera.split(out)
    axes = to_world[:, :3, :3]
    np.testing.assert_allclose(axes @ axes.transpose(0, 2, 1), np.tile(np.eye(3), (12, 1, 1)), atol=1e-5)
    centres = cameras[:, [3, 7, 11]]
    np.testing.assert_allclose(out[5, [3, 7, 11]], centres[2:9].mean(0), atol=1e-5)
    np.testing.assert_allclose(out[0, [3, 7, 11]], centres[:4].mean(0), atol=1e-5)
    np.testing.assert_array_equal(smooth_cameras(cameras, 1)[:, 16:], cameras[:, 16:])
    same = np.repeat(cameras[:1], 9, 0)
    np.testing.assert_allclose(smooth_cameras(same), same, atol=1e-6)
    with pytest.raises(InputError, match="odd number"):
        smooth_cameras(cameras, 4)


@pytest.mark.parametrize("n", [1, 2, 3, 30])
def test_box_smoothing_mirrors_the_ends(n):
    x = np.random.default_rng(0).normal(size=(n, 68, 3)).astype(np.float32)
    padded = x
    while len(padded) < n + 6:  # mirrored with the edge frame, repeatedly when the series is short
        padded = np.concatenate([x[::-1], x, x[::-1]]) if n > 2 else np.concatenate([x, x[::-1]] * 8)
    start = n if n > 2 else 2 * n * 3
    want = np.stack([padded[start + t - 3 : start + t + 4].mean(0) for t in range(n)])
    np.testing.assert_allclose(box_smooth(x), want, atol=1e-6)
    np.testing.assert_allclose(box_smooth(np.ones((n, 2))), 1)


def test_blinks():
    closure = blink_closure(400)
    starts = np.flatnonzero((closure[1:] > 0) & (closure[:-1] == 0))
    assert len(starts) == 3 and (np.diff(starts) == 125).all() and starts[0] == 62
    assert 0.95 < closure.max() <= 1 and closure.min() == 0
    first = blink_closure(100, from_start=True)
    length = np.flatnonzero(first).max() + 1
    assert 8 <= length <= 12
    np.testing.assert_allclose(first[:length], [4 * k / length - 4 * (k / length) ** 2 for k in range(length)])
    assert not blink_closure(300, interval=0).any()
    assert len(blink_closure(66)) == 66


def test_pose_files_round_trip(tmp_path):
    poses = _random_poses()
    write_poses(tmp_path / "p.csv", poses)
    again = read_poses(tmp_path / "p.csv")
    np.testing.assert_allclose(again.euler, poses.euler, atol=1e-6)
    np.testing.assert_allclose(again.trans, poses.trans, atol=1e-6)
    np.save(tmp_path / "p.npy", np.concatenate([poses.euler, poses.trans], 1))
    np.testing.assert_array_equal(read_poses(tmp_path / "p.npy").trans, poses.trans)
    np.save(tmp_path / "q.npy", np.degrees(poses.euler))
    np.testing.assert_allclose(read_poses(tmp_path / "q.npy", degrees=True).euler, poses.euler)


def test_pose_columns_in_any_order_and_by_time(tmp_path):
    (tmp_path / "p.csv").write_text("time,Yaw,pitch,roll,comment\n0,0,1,0,a\n1,10,2,0,b\n")
    poses = read_poses(tmp_path / "p.csv", degrees=True, fps=10)
    assert len(poses) == 11
    np.testing.assert_allclose(np.degrees(poses.euler[5]), [1.5, 5, 0])
    assert not poses.trans.any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pitch,yaw\n0,0\n", "lacks the column.* roll: it has pitch, yaw"),
        ("pitch,yaw,roll\n", "expected a line of column names"),
        ("pitch,yaw,roll\n0,nan,0\n", "frame 0, yaw is no finite number"),
        ("pitch,yaw,roll\n0,0,0\n0,up,0\n", "frame 1, yaw"),
        ("pitch,yaw,roll\n0,0\n", "line 2 has 2 values for 3 columns"),
        ("pitch,yaw,roll\n0,20,0\n", "angle of 20 radians.*degrees option"),
        ("pitch,yaw,roll,time\n0,0,0,1\n0,0,0,1\n", "does not rise"),
    ],
)
def test_wrong_pose_tables(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_poses(tmp_path / "p.csv")


def test_wrong_pose_files(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_poses(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="cannot read"):
        read_poses(tmp_path / "absent.npy")
    with pytest.raises(InputError, match=r"ends in \.csv or \.npy"):
        read_poses(tmp_path / "p.txt")
    np.save(tmp_path / "shape.npy", np.zeros((5, 4)))
    with pytest.raises(InputError, match=r"\(5, 4\): expected \[t, 3\]"):
        read_poses(tmp_path / "shape.npy")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not an NPY file of numbers"):
        read_poses(tmp_path / "object.npy")
    np.save(tmp_path / "empty.npy", np.zeros((0, 6)))
    with pytest.raises(InputError, match="expected one array"):
        read_poses(tmp_path / "empty.npy")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(InputError, match="not a CSV text file"):
        read_poses(tmp_path / "binary.csv")


def test_expression_columns(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("Timecode,JawOpen,mouthSmileLeft,HeadYaw\n00:01,0.25,-0.1,3\n00:02,0.5,0,3\n")
    out, ignored = read_expression(path, NAMES)
    assert out.shape == (2, 64) and out.dtype == np.float32 and ignored == ["Timecode", "HeadYaw"]
    np.testing.assert_allclose(out[:, :4], [[0.25, -0.1, 0, 0], [0.5, 0, 0, 0]])
    path.write_text("time,jawOpen\n0,0\n0.4,1\n")
    np.testing.assert_allclose(read_expression(path, NAMES, fps=5)[0][:, 0], [0, 0.5, 1])
    np.save(tmp_path / "e.npy", np.ones((3, 52)))
    assert read_expression(tmp_path / "e.npy", NAMES)[0].sum() == 3 * 52
    for text, message in (
        ("a,b\n1,2\n", "no column that is a unit's name"),
        ("jawOpen\nnan\n", "jawOpen is no finite"),
        ("jawOpen\n55\n", "divide percentages"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_expression(path, NAMES)
    np.save(tmp_path / "bad.npy", np.ones((3, 10)))
    with pytest.raises(InputError, match=r"expected \[t, 64\]"):
        read_expression(tmp_path / "bad.npy", NAMES)
    with pytest.raises(InputError, match="no expression file"):
        read_expression(tmp_path / "e.json", NAMES)


def test_edits():
    start = np.full((3, 64), 0.2, np.float32)
    out = edit_expression(start, ["jawOpen=0.3", "mouthsmileleft+=0.1", "mouthSmileRight*=0.5"], NAMES)
    np.testing.assert_allclose(out[0, :4], [0.3, 0.3, 0.1, 0.2])
    assert (start == np.float32(0.2)).all()
    with pytest.raises(InputError, match="did you mean jawOpen"):
        edit_expression(start, ["jawOpne=0.3"], NAMES)
    for edit in ("jawOpen", "jawOpen=wide", "jawOpen=nan", "jawOpen="):
        with pytest.raises(InputError, match="is no edit"):
            edit_expression(start, [edit], NAMES)
