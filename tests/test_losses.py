import jax
import jax.numpy as jnp
import pytest

from r3p import losses


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
