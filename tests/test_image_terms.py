"""Loss terms of the stages of images: closed forms, directions, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from quick import drawn
from test_portrait import TINY

from configs.img2plane import perceptual
from r3p import losses, weights
from r3p.errors import InputError
from r3p.models import layers
from r3p.models.perceptual import PerceptualLoss
from r3p.models.planes import resize_planes
from r3p.models.portrait import Portrait
from r3p.stages import terms
from r3p.stages.draws import Draws


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


# ------------------------------------------------------------------------------------------------ draws
def test_draws_belong_to_examples():
    key = jax.random.key(3)
    together = Draws(jnp.arange(8), key).uniform("rays", (5, 3))
    alone = Draws(jnp.array([6]), key).uniform("rays", (5, 3))
    np.testing.assert_array_equal(together[6], alone[0])
    assert together.shape == (8, 5, 3) and len(np.unique(np.asarray(together))) > 110
    other = [
        Draws(jnp.arange(8), key).uniform("points", (5, 3)),
        Draws(jnp.arange(8), jax.random.key(4)).uniform("rays", (5, 3)),
    ]
    assert all((np.asarray(o) != np.asarray(together)).mean() > 0.99 for o in other)


def test_draws_are_uniform_and_normal():
    u = np.asarray(Draws(jnp.arange(64), jax.random.key(0)).uniform("x", (4096,)))
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, 64, (0, 1))[0]
    expected = u.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 120  # chi square with 63 degrees of freedom: 99.998 %
    for shifted in (u[:, 1:] - u[:, :-1].mean(), u[1:] - u[:-1].mean()):  # neighbours along both axes
        base = u[:, :-1] if shifted.shape[1] < u.shape[1] else u[:-1]
        assert abs(np.corrcoef(shifted.ravel(), base.ravel())[0, 1]) < 0.01
    n = np.asarray(Draws(jnp.arange(64), jax.random.key(1)).normal("x", (4096,)))
    assert abs(n.mean()) < 0.01 and abs(n.std() - 1) < 0.01 and abs((n**4).mean() - 3) < 0.1


# ------------------------------------------------------------------------------------------------ images
def test_masked_error_of_each_image_is_that_of_a_batch_of_one():
    a, b = images(2, 3, 8, 8, 3)
    a[1] *= 3
    mask = np.random.default_rng(1).random((3, 8, 8, 1)) > 0.5
    each = losses.masked_error(a, b, mask, each=True)
    alone = [losses.masked_error(a[k : k + 1], b[k : k + 1], mask[k : k + 1]) for k in range(3)]
    np.testing.assert_allclose(each, np.mean(alone), rtol=1e-6)


def test_the_originals_mask_defect_looks_at_the_inside_only():
    a, b = images(2, 1, 8, 8, 3) * 0.1
    mask = (np.arange(8) < 4).astype(np.float32)[None, None, :, None] * np.ones((1, 8, 8, 1), np.float32)

    def loss(a):
        return losses.masked_error(a, b, mask, inside=0.6, outside=-0.2)

    value, grad = jax.value_and_grad(loss)(a)
    np.testing.assert_allclose(value, 0.6 * (np.abs(a - b).sum(-1, keepdims=True) * mask).mean(), rtol=1e-5)
    assert not grad[:, :, 4:].any() and grad[:, :, :4].all()


def test_weights_want_the_silhouette():
    mask = jnp.zeros((1, 4, 4, 1)).at[:, :2].set(1.0)
    perfect, empty = terms.weight_terms(mask, mask), terms.weight_terms(jnp.zeros_like(mask), mask)
    assert perfect["weight_l1"] == 0 and empty["weight_l1"] == 1
    half = terms.weight_terms(jnp.full_like(mask, 0.5), mask)
    assert half["weight_l1"] == pytest.approx(0.5) and half["weight_entropy"] == pytest.approx(1)
    # an image without a head asks for emptiness alone
    assert terms.weight_terms(jnp.full_like(mask, 0.5), jnp.zeros_like(mask))["weight_l1"] == pytest.approx(0.25)


def keypoints(x, y):
    points = np.zeros((1, 68, 3), np.float32)
    points[0, 48:60, 0] = np.linspace(x - 0.2, x + 0.2, 12)
    points[0, 48:60, 1] = np.linspace(y - 0.1, y + 0.1, 12)
    return points


def test_lip_boxes_are_squares_within_the_image():
    middle, corner = (terms.lip_boxes(keypoints(*at), 100)[0] for at in ((0.0, 0.4), (0.99, 0.99)))
    # lips of 20 x 10 pixels about (50, 70): half a side is 1.2 * 10
    np.testing.assert_array_equal(middle, [50 - 12, 70 - 12, 24])
    np.testing.assert_array_equal(corner, [76, 76, 24])
    assert terms.lip_boxes(np.zeros((1, 68, 3), np.float32), 100)[0, 2] == 2


def test_lip_terms_see_the_box_only():
    a, b = images(2, 1, 100, 100, 3)
    boxes = terms.lip_boxes(keypoints(0.0, 0.4), 100)
    x, y, side = np.asarray(boxes[0])
    inside = np.abs(a - b)[:, y : y + side, x : x + side].mean()
    np.testing.assert_allclose(terms.lip_l1(a, b, boxes), inside, rtol=1e-5)
    crop = a[:, y : y + side, x : x + side]
    np.testing.assert_allclose(terms.crop_boxes(a, boxes, 64), layers.resize(crop, (64, 64)), atol=1e-5)
    np.testing.assert_allclose(terms.crop_boxes(a, boxes, side), crop, atol=1e-5)


def test_a_mask_grows_by_the_same_share_of_every_image():
    for size in (128, 512):
        mask = jnp.zeros((1, size, size, 1)).at[0, size // 2, size // 2].set(1.0)
        side = terms.grown(mask, 41)[0, size // 2, :, 0].sum()
        assert side == (41 * size // 512 | 1)


# ------------------------------------------------------------------------------------------------ planes
def test_laplacian_is_zero_on_a_line_and_its_gradient_pulls_to_the_middle():
    a, step = images(2, 3, 4, 4, 2)
    assert terms.laplacian(a - step, a, a + step) == pytest.approx(0, abs=1e-12)
    away = images(3, 4, 4, 2, seed=1)
    value, grad = jax.value_and_grad(terms.laplacian, argnums=1)(a - step, a + away, a + step)
    assert value == pytest.approx((away**2).mean(), rel=1e-4)
    np.testing.assert_allclose(grad, 2 * away / away.size, rtol=1e-3, atol=1e-7)
    assert terms.laplacian(a - step, a + away, a + step, squared=False) == pytest.approx(np.abs(away).mean(), rel=1e-4)


def test_coarsened_planes_are_resized_ones():
    planes = images(2, 3, 16, 16, 4)
    got = terms.coarsened(planes, jnp.array([8.0, 11.0]))
    for k, size in enumerate((8, 11)):
        want = resize_planes(resize_planes(planes[k : k + 1], size), 16)
        np.testing.assert_allclose(got[k : k + 1], want, atol=1e-5)
    np.testing.assert_allclose(terms.coarsened(planes, jnp.array([16.0, 16.0])), planes, atol=1e-5)


def test_density_term():
    model = Portrait(**TINY, torso=False, superres_fields=dict(widths=(8, 4), raw_resolution=16, style_width=8))
    planes = images(2, 3, 16, 16, 8)
    points = images(2, 20, 3, seed=1) * 0.4
    variables = {"params": {"decoder": drawn_decoder()}}
    none = terms.density_l1(model, variables, planes, points, np.zeros_like(points))
    assert none == 0
    shift = np.full_like(points, 0.05)
    both = [model.apply(variables, planes, p, method="density") for p in (points, points + shift)]
    np.testing.assert_allclose(
        terms.density_l1(model, variables, planes, points, shift), np.abs(both[0] - both[1]).mean(), rtol=1e-4
    )
    # constant planes have the same density everywhere inside
    flat = np.broadcast_to(planes[:, :1, :1, :1], planes.shape)
    assert terms.density_l1(model, variables, flat, points, shift) == pytest.approx(0, abs=1e-6)


def drawn_decoder():
    from r3p.models.decoder import Decoder

    return drawn(Decoder(**TINY["decoder_fields"]), np.zeros((1, 8), np.float32))["params"]


def test_self_tuned_weights_follow_their_goal():
    options = dict(goal=0.3, rate=0.01, top=2.0)
    above, at, below = (terms.self_tuned(jnp.float32(0.5), jnp.float32(v), **options) for v in (3.0, 0.3, 0.03))
    np.testing.assert_allclose([above, at, below], [0.51, 0.5, 0.49], rtol=1e-5)
    assert terms.self_tuned(jnp.float32(0.001), jnp.float32(1e-9), **options) == 0
    assert terms.self_tuned(jnp.float32(1.9999), jnp.float32(1e9), **options) == 2


# ------------------------------------------------------------------------------------------------ perception
SMALL = dict(widths=(3, 4, 4, 5, 5))


def settings(**changes):
    return ConfigDict({**perceptual("vgg"), "size": 64, **changes})


def test_missing_weights_are_never_made_up():
    with pytest.raises(InputError, match="no weights are given"):
        terms.Perception(settings())
    with pytest.raises(InputError, match="choose vgg, lpips or none"):
        terms.Perception(settings(kind="vgg20"))
    assert not terms.Perception(settings(kind="none"))


def test_perception_is_the_loss_of_the_given_weights(tmp_path):
    a, b = images(2, 1, 64, 64, 3)
    model = PerceptualLoss(size=64, vgg19_fields=SMALL, vggface_fields=SMALL)
    variables = drawn(model, a, b)
    fields = {"vgg19_fields": SMALL, "vggface_fields": SMALL}
    weights.save(tmp_path / "both.npz", variables, {"kind": "perceptual", "fields": fields})
    for name in ("vgg19", "vggface"):
        tree = {"params": variables["params"][name]}
        weights.save(tmp_path / f"{name}.npz", tree, {"kind": name, "fields": SMALL})
    want = {False: model.apply(variables, a / 2 + 0.5, b / 2 + 0.5), True: model.apply(variables, a, b)}
    apart = {name: str(tmp_path / f"{name}.npz") for name in ("vgg19", "vggface")}
    for signed in want:
        for places in ({"weights": str(tmp_path / "both.npz")}, apart):
            perception = terms.Perception(settings(signed=signed, **places))
            np.testing.assert_allclose(perception(perception.init(), a, b), want[signed], rtol=1e-5)
