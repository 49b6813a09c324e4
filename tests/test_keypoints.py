"""Unsupervised key points: the detector, its equivariance, and the torso model that they move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from quick import drawn, quick_jit
from test_superres import TINY, TINY_TORSO, portrait, rendered

from r3p.errors import InputError
from r3p.models.keypoints import (
    KeypointDetector,
    Warp,
    equivariance_loss,
    soft_argmax,
    warp_images,
    warp_of,
    warp_points,
)
from r3p.models.superres import TorsoSuperResolution
from r3p.state import make_adam

DETECTOR = {"resolution": 32, "widths": (8, 8), "last_width": 4, "kernel_size": 3}
SIDE = 64


def identity(b: int, shift: tuple[float, float] = (0.0, 0.0)) -> Warp:
    affine = np.tile(np.eye(2, 3, dtype=np.float32), (b, 1, 1))
    affine[:, :, 2] = shift
    return Warp(jnp.asarray(affine), jnp.zeros((b, 25, 2)))


def spots(rng: np.random.Generator, b: int = 2) -> np.ndarray:
    """Images [b, 64, 64, 3] that are 0 but for a patch of noise in the middle."""
    images = np.zeros((b, SIDE, SIDE, 3), np.float32)
    images[:, 24:40, 24:40] = rng.uniform(-1, 1, (b, 16, 16, 3))
    return images


@pytest.fixture(scope="module")
def sharp() -> tuple[KeypointDetector, dict]:
    """A detector whose maps have one high top, and nothing where the image has nothing."""
    model = KeypointDetector(keypoints=3, **DETECTOR, temperature=0.01)
    variables = drawn(model, np.zeros((1, SIDE, SIDE, 3), np.float32))
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: np.zeros_like(x) if path[-1].key == "bias" else x, variables["params"]
    )
    params["heat"]["kernel"] = 30 * params["heat"]["kernel"]
    stats = jax.tree_util.tree_map_with_path(
        lambda path, x: np.zeros_like(x) if path[-1].key == "mean" else np.ones_like(x), variables["batch_stats"]
    )
    return model, {"params": params, "batch_stats": stats}


def test_a_peak_is_found_where_it_is() -> None:
    heat = np.zeros((1, 5, 9, 2), np.float32)
    heat[0, 1, 6, 0] = heat[0, 4, 0, 1] = 9
    np.testing.assert_allclose(soft_argmax(jnp.asarray(heat), 0.1)[0], [[0.5, -0.5], [-1, 1]], atol=1e-6)
    flat = soft_argmax(jnp.zeros((1, 4, 4, 1)), 0.1)
    np.testing.assert_allclose(flat, 0, atol=1e-6)


def test_key_points_follow_a_translation(sharp: tuple[KeypointDetector, dict]) -> None:
    model, variables = sharp
    detect = quick_jit(lambda x: model.apply(variables, x))
    images = spots(np.random.default_rng(0))
    before = np.asarray(detect(images))
    assert before.shape == (2, 3, 3) and not before[..., 2].any() and np.abs(before[..., :2]).max() < 0.6
    # Eight pixels are four of the detector's, the step of its coarsest level.
    moved = np.asarray(detect(np.roll(images, (8, -8), axis=(1, 2))))
    step = 4 * 2 / 31
    np.testing.assert_allclose(moved[..., 0], before[..., 0] - step, atol=1e-4)
    np.testing.assert_allclose(moved[..., 1], before[..., 1] + step, atol=1e-4)


def test_the_equivariance_loss_knows_a_translation(sharp: tuple[KeypointDetector, dict]) -> None:
    model = KeypointDetector(keypoints=3, **{**DETECTOR, "resolution": SIDE}, temperature=0.01)
    _, variables = sharp

    def detect(x):
        return model.apply(variables, x)

    images = spots(np.random.default_rng(1))
    shift = 4 * 2 / (SIDE - 1)
    loss = quick_jit(lambda warp: equivariance_loss(detect, images, warp))
    assert loss(identity(2)) < 1e-5
    assert loss(identity(2, (shift, -2 * shift))) < 1e-3
    # Points that stay where they are, whatever the image does, are told apart.
    still = equivariance_loss(lambda x: jnp.zeros((2, 3, 3)), images, identity(2, (shift, -shift)))
    np.testing.assert_allclose(still, shift, rtol=1e-5)


def test_warped_images_show_at_p_what_was_at_its_image() -> None:
    rng = np.random.default_rng(0)
    normal = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((2, 2, 3), (2, 25, 2)))
    warp = warp_of(*normal)
    axis = np.linspace(-1, 1, 33, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    ramps = np.broadcast_to(grid, (2, 33, 33, 2))  # a linear image is read without error
    seen = np.asarray(warp_images(warp, jnp.asarray(ramps)))
    wanted = np.asarray(warp_points(warp, jnp.asarray(ramps.reshape(2, -1, 2)))).reshape(2, 33, 33, 2)
    np.testing.assert_allclose(seen, np.clip(wanted, -1, 1), atol=1e-5)
    assert 0.01 < np.abs(wanted - ramps).mean() < 0.3
    control = warp_points(warp, jnp.zeros((2, 1, 2)))  # on a control point
    assert jnp.isfinite(jax.grad(lambda p: warp_points(warp, p).sum())(jnp.zeros((2, 1, 2)))).all()
    assert jnp.isfinite(control).all()


# ------------------------------------------------------------------------------------------------ in the model
def model_and_args(b: int = 1):
    model = TorsoSuperResolution(
        torso_fields={**TINY_TORSO, "keypoints": 5}, detector_fields=DETECTOR, keypoints="unsupervised", **TINY
    )
    rng = np.random.default_rng(5)
    images = rng.uniform(-1, 1, (2, b, SIDE, SIDE, 3)).astype(np.float32)
    return model, (*rendered(b), *portrait(b), *images)


def test_gradients_reach_the_detector_and_images_move_the_torso() -> None:
    model, args = model_and_args()
    variables = drawn(model, *args)
    assert variables["params"]["detector"]["heat"]["kernel"].shape[-1] == 5
    assert variables["params"]["torso"]["motion"]["mask"]["kernel"].shape[-1] == 6

    def loss(params):
        out, changed = model.apply({**variables, "params": params}, *args, train=True, mutable=["batch_stats"])
        return (out.torso.rgb**2).mean() + (out.rgb**2).mean(), (out, changed)

    grads, (out, changed) = quick_jit(jax.grad(loss, has_aux=True))(variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads["detector"]):
        assert jnp.isfinite(grad).all(), path
        # What a bias adds, batch statistics or the softmax over the map take away again.
        assert jnp.any(grad) or path[-1].key == "bias", path
    assert jnp.any(grads["detector"]["down0"]["conv"]["kernel"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), changed["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved["detector"]))
    assert out.rgb.shape == (1, 64, 64, 3)


def test_points_found_once_give_the_same_frame_and_landmarks_are_refused() -> None:
    model, args = model_and_args()
    variables = drawn(model, *args)
    run = quick_jit(lambda v, *a: model.apply(v, *a).rgb)
    detect = quick_jit(lambda v, x: model.apply(v, x, method="detect"))
    points = [detect(variables, x) for x in args[-2:]]
    assert points[0].shape == (1, 5, 3)
    np.testing.assert_allclose(run(variables, *args), run(variables, *args[:-2], *points), atol=1e-5)
    with pytest.raises(InputError, match=r"expected \[b, 5, 3\]"):
        jax.eval_shape(run, variables, *args[:-2], *np.zeros((2, 1, 68, 3), np.float32))
    warp = identity(1)
    assert quick_jit(lambda v: model.apply(v, args[-1], warp, method="equivariance"))(variables) < 1e-5
    with pytest.raises(InputError, match="choose landmarks or unsupervised"):
        TorsoSuperResolution(keypoints="none").init(jax.random.key(0), *args)


def test_equivariance_teaches_a_detector() -> None:
    """A detector of noise learns, from warps alone, to stay with what it sees: on images that it was not shown."""
    model = KeypointDetector(keypoints=4, **DETECTOR)
    rng = np.random.default_rng(0)
    axis = np.linspace(-1, 1, 32)
    # a spot of each colour, anywhere
    squares = [(axis - rng.uniform(-0.6, 0.6, (36, 3, 1))) ** 2 for _ in range(2)]
    spot = np.exp(-20 * (squares[0][..., None, :] + squares[1][..., None]))
    images = np.moveaxis(2 * spot - 1, 1, -1).astype(np.float32)
    variables = drawn(model, images[:1])

    def loss(params, shown, warp):
        return equivariance_loss(lambda x: model.apply({**variables, "params": params}, x), shown, warp)

    def warps(b):
        return warp_of(
            *(jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((b, 2, 3), (b, 25, 2))), affine=0.15
        )  # fmt: skip

    held_out = images[32:], warps(4)
    adam = make_adam(ConfigDict(dict(clip_norm=1.0, beta1=0.9, beta2=0.99)), lambda _: 5e-3)

    @quick_jit
    def step(params, state, shown, warp):
        value, grads = jax.value_and_grad(loss)(params, shown, warp)
        updates, state = adam.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state, value

    params, state = variables["params"], adam.init(variables["params"])
    before = step(params, state, *held_out)[2]
    for _ in range(40):
        params, state, _ = step(params, state, images[rng.integers(0, 32, 4)], warps(4))
    after = step(params, state, *held_out)[2]
    assert after < 0.8 * before
