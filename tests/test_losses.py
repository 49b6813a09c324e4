import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r3p import losses
from r3p.errors import InputError


def test_masks_of_every_type_weigh_alike():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 1, 8, 8, 3)).astype(np.float32)
    mask = rng.random((1, 8, 8, 1)) > 0.5
    values = [losses.masked_error(a, b, mask.astype(kind)) for kind in (bool, np.int32, np.float32)]
    assert values[0] == values[1] == values[2]


def test_masked_error_cuts_outliers():
    a = jnp.zeros((1, 10, 10, 1)).at[0, 0].set(0.1).at[0, 1, 0].set(50.0)
    value, grad = jax.value_and_grad(losses.masked_error)(a, jnp.zeros_like(a), jnp.ones_like(a))
    # below the floor of the cut nothing else is changed
    assert value == pytest.approx((10 * 0.1 + 0.5) / 100)
    assert grad[0, 1, 0, 0] == 0 and grad[0, 0, 0, 0] == pytest.approx(0.01)


def test_padding_frames_do_not_count():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1, 6, 4)).astype(np.float32)
    mask = np.float32([[1, 1, 1, 1, 0, 0]])
    changed = x.copy()
    changed[:, 5] += 9
    for loss in (losses.frame_power, losses.frame_velocity, losses.frame_laplacian):
        assert loss(x, mask) == loss(changed, mask)
    assert losses.frame_mse(x, y, mask) == losses.frame_mse(changed, y, mask)
    np.testing.assert_allclose(losses.frame_mae(x, y, mask), np.abs(x - y)[:, :4].mean(), rtol=1e-6)


def test_a_straight_line_has_no_laplacian_but_at_its_ends():
    line = jnp.arange(1.0, 6.0)[None, :, None]
    inside = jnp.array([[0.0, 1, 1, 1, 0]])
    for zero_ends in (False, True):
        assert losses.frame_laplacian(line, inside, zero_ends=zero_ends) == 0
    assert losses.frame_laplacian(line, jnp.ones((1, 5))) == 0
    assert losses.frame_laplacian(line, jnp.ones((1, 5)), zero_ends=True) == pytest.approx(3**2 / 5)
    bent = line.at[0, 3].set(6.0)
    assert losses.frame_laplacian(bent, inside) == pytest.approx(1.0)  # one frame has both neighbours
    assert losses.frame_velocity(line, jnp.ones((1, 5))) == pytest.approx(4 / 5)


def test_landmark_weights():
    weights = losses.landmark_weights()
    assert [int((weights == w).sum()) for w in (20, 5, 3, 0, 1)] == [10, 40, 22, 8, 388]
    with pytest.raises(InputError, match="468 points"):
        losses.landmark_mse(jnp.zeros((1, 2, 204)), jnp.zeros((1, 2, 204)), jnp.ones((1, 2)))


def test_weights_move_the_mean_not_its_scale():
    a, b = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 3)).at[:, :2].set(1.0)
    weight = jnp.ones((1, 4, 4, 1)).at[:, :2].set(3.0)
    assert losses.weighted_l1(a, b) == pytest.approx(0.5)
    assert losses.weighted_l1(a, b, weight) == pytest.approx(0.75)
    assert losses.weighted_l1(a, b, 7 * jnp.ones((1, 4, 4, 1))) == pytest.approx(0.5)


def test_gradients_ignore_a_constant_and_see_an_edge():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    assert losses.gradient_l1(x, x + 2) == pytest.approx(0, abs=1e-5)
    edge = jnp.zeros((1, 8, 8, 3)).at[:, :, 4:].set(1.0)
    assert losses.gradient_l1(jnp.zeros_like(edge), edge) == pytest.approx(0.5 / 7)


def test_entropy_is_least_for_solid_and_empty():
    solid, fog = jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5])
    assert losses.binary_entropy(solid) < 1e-3 < losses.binary_entropy(fog) == pytest.approx(1.0)
    assert jnp.isfinite(jax.grad(losses.binary_entropy)(solid)).all()


def test_psnr_of_a_known_error():
    x = jnp.zeros((1, 2, 2, 3))
    assert losses.psnr(x, x + 0.2) == pytest.approx(20.0, abs=1e-4)


def test_patches_of_the_face_are_compared():
    arrays = [(jnp.ones((3, 3, i, o)) * 0.1, jnp.zeros(o)) for i, o in zip((3, *(4,) * 12), (4,) * 13, strict=True)]
    params = {"convs": arrays, "weights": [jnp.ones(4)] * 5}
    target = jnp.zeros((2, 32, 32, 3))
    # the only difference lies outside of what the key points span, then inside
    points = jnp.zeros((2, 68, 3)).at[:, 0, :2].set(-0.6).at[:, 1, :2].set(-0.4)
    for place, seen in ((28, False), (7, True)):
        changed = target.at[:, place, place, 0].set(1.0)
        value = losses.patch_lpips(params, changed, target, points, jax.random.key(0), size=8)
        assert (float(value) > 0) == seen
