import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r3p import camera, render
from r3p.errors import InputError
from r3p.models.decoder import Decoder


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def small(seed=0, b=2, r=40, c=4, size=8):
    rng = np.random.default_rng(seed)
    origins, directions = (jnp.asarray(a, jnp.float32) for a in camera.rays(camera.sample(rng.random((b, 3))), 7))
    planes = jnp.asarray(rng.normal(size=(b, 3, size, size, c)), jnp.float32)
    model = Decoder(hidden=8, features=5)
    variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, c)))
    return planes, functools.partial(model.apply, variables), origins[:, :r], directions[:, :r]


def run(decoder, **options):
    return jax.jit(lambda planes, o, d: render.render(planes, decoder, o, d, **options))


def test_chunks_do_not_change_the_result():
    planes, decoder, *rays = small()
    whole = run(decoder, coarse=6, fine=5, chunk=1000)(planes, *rays)
    parts = run(decoder, coarse=6, fine=5, chunk=7)(planes, *rays)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_uniform_density_has_a_closed_form():
    """Constant density and colour: weight 1 - exp(-softplus(sigma - 1) length), feature 2 colour weight - 1."""
    origins, directions = camera.rays(camera.from_pose(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32)), 5)
    origins, directions = jnp.asarray(origins), jnp.asarray(directions)

    def decoder(x):
        return jnp.full((*x.shape[:-1], 3), 0.7), jnp.full((*x.shape[:-1], 1), 2.0)

    for fine in (0, 9):
        out = run(decoder, coarse=8, fine=fine)(jnp.zeros((1, 3, 4, 4, 2)), origins, directions)
        near, far = render.ray_limits(origins, directions)
        weight = 1 - np.exp(-np.log1p(np.e) * (far - near))
        np.testing.assert_allclose(out.weight[..., 0], weight, rtol=2e-5)
        np.testing.assert_allclose(out.feature, 2 * 0.7 * out.weight * jnp.ones(3) - 1, atol=1e-5)
        assert out.valid.all() and (out.depth[..., 0] > near).all() and (out.depth[..., 0] < far).all()


def test_sampling_is_linear_and_zero_outside():
    """A plane that holds its own coordinates gives them back between texel centres, and fades to zero past the edge."""
    size = 16
    centre = (jnp.arange(size) + 0.5) / size * 2 - 1
    xy = jnp.stack(jnp.meshgrid(centre, centre, indexing="xy"), -1)  # [h, w, (x, y)]
    planes = jnp.broadcast_to(xy, (1, 3, size, size, 2))
    points = jax.random.uniform(jax.random.key(0), (1, 50, 3), minval=-0.46, maxval=0.46)
    read = render.sample_planes(planes, points)[0]
    for k, (a, b, _) in enumerate(render.PLANE_AXES):
        np.testing.assert_allclose(read[k], 2 * points[0][:, jnp.array([a, b])], atol=1e-5)
    assert not render.sample_planes(planes, jnp.full((1, 1, 3), 0.7)).any()
    assert not render.sample_planes(planes, jnp.full((1, 1, 3), -9.0)).any()


def test_the_packed_table_of_tpus_is_the_same(monkeypatch):
    rng = np.random.default_rng(5)
    planes = jnp.asarray(rng.normal(size=(2, 3, 5, 7, 4)), jnp.float32)
    # Inside, on the edges, half a texel and more beside them, and far away.
    points = jnp.asarray(
        np.concatenate([rng.uniform(-0.8, 0.8, (2, 200, 3)), rng.choice([-9.0, -0.5, 0.5, 9.0], (2, 40, 3))], 1),
        jnp.float32,
    )
    weight = jnp.asarray(rng.normal(size=(2, 240, 4)), jnp.float32)

    def both():
        def loss(planes, points):
            features = render.mean_features(planes, points)
            return (features * weight).sum(), features

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(planes, points)

    padded = both()
    monkeypatch.setattr(render.sharding, "platform", lambda: "tpu")
    assert (
        render._sampler(planes) is render._sample_packed and render._sampler(planes[..., None]) is render._sample_plane
    )
    for a, b in zip(jax.tree.leaves(padded), jax.tree.leaves(both()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_order_is_a_stable_sort():
    depths = jnp.asarray(np.random.default_rng(0).integers(0, 9, (2, 3, 20)), jnp.float32)
    order, rank = render.sort_order(depths)
    np.testing.assert_array_equal(order, jnp.argsort(depths, axis=-1, stable=True))
    np.testing.assert_array_equal(jnp.take_along_axis(rank, order, -1)[0, 0], np.arange(20))
    np.testing.assert_array_equal(render.permute(depths, order, rank), jnp.sort(depths, axis=-1))


def test_importance_follows_the_weights():
    depths = jnp.linspace(2.0, 3.0, 20)[None, None]
    weights = jnp.zeros((1, 1, 19)).at[..., 12].set(1.0)
    drawn = render.importance_depths(depths, weights, 64)[0, 0]
    assert (jnp.diff(drawn) >= 0).all()
    assert ((drawn > depths[0, 0, 10]) & (drawn < depths[0, 0, 15])).mean() > 0.85


@pytest.mark.parametrize("fine", [0, 6])
def test_gradients_are_finite_and_match_differences(fine):
    planes, decoder, origins, directions = small(b=1)

    @jax.jit
    def total(planes):
        u = jnp.linspace(0.03, 0.95, 6)[None, None] * jnp.ones((1, origins.shape[1], 1))
        # The importance pass is constant to differentiation: freeze what it sees.
        out = render.render(planes, decoder, origins, directions, coarse=6, fine=fine, u=u, chunk=16)
        return (out.feature**2).sum() + out.weight.sum() + (out.depth * out.weight).sum()

    grad = jax.jit(jax.grad(total))(planes)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0
    if not fine:
        step = jax.random.normal(jax.random.key(5), planes.shape)
        numeric = (total(planes + 1e-2 * step) - total(planes - 1e-2 * step)) / 2e-2
        np.testing.assert_allclose((grad * step).sum(), numeric, rtol=2e-2)


def test_empty_space_has_finite_gradients():
    planes, _, origins, directions = small(b=1)

    def total(planes):
        out = render.render(planes, lambda x: (x, x[..., :1] - 1e4), origins, directions, coarse=5, fine=4)
        return out.depth.sum() + out.feature.sum() + out.weight.sum()

    value, grad = jax.jit(jax.value_and_grad(total))(planes)
    assert np.isfinite(value) and np.isfinite(grad).all()


def test_own_limits_keep_images_independent():
    planes, decoder, origins, directions = small()
    wide = directions.at[1].set(directions[1] + jnp.array([0.0, 3.0, 0.0]))
    wide = wide / jnp.linalg.norm(wide, axis=-1, keepdims=True)
    own = run(decoder, coarse=6, fine=4, shared_limits=False)
    aside, both = own(planes, origins, wide), own(planes, origins, directions)
    assert not aside.valid[1].any() and both.valid[1].all()
    for a, b in zip(aside, both, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)


def test_rays_may_be_sampled_in_a_smaller_box():
    origins, directions = jnp.array([[[0.1, 0, 2]]]), jnp.array([[[0.0, 0, -1]]])
    near, far = render.ray_limits(origins, directions, (1.0, 1.0, 0.5))
    np.testing.assert_allclose([near[0, 0], far[0, 0]], [1.75, 2.25], atol=1e-6)
    near, far = render.ray_limits(origins, directions, (0.1, 1.0, 0.5))  # the ray passes beside it
    assert far[0, 0] < near[0, 0]
    # What is known to be empty adds nothing: a slab of density within the box, seen with as many samples.
    planes, _, origins, directions = small(b=1)

    def slab(features):
        return jnp.ones((*features.shape[:-1], 4)), features[..., :1] * 0 + 3.0

    whole, part = (
        render.render(planes, slab, origins, directions, coarse=64, fine=0, box=box).weight
        for box in (None, (1.0, 1.0, 0.5))
    )
    assert (part < whole).all() and (part > 0).all()


def test_rays_may_have_fixed_limits():
    planes, _, origins, directions = small()

    def fog(x):
        return jnp.full((*x.shape[:-1], 3), 0.7), jnp.full((*x.shape[:-1], 1), 2.0)

    out = run(fog, coarse=8, fine=5, limits=(2.0, 2.5))(planes, origins, directions)
    np.testing.assert_allclose(out.weight, 1 - np.exp(-np.log1p(np.e) * 0.5), rtol=2e-5)
    assert out.valid.all() and (out.depth > 2).all() and (out.depth < 2.5).all()


def test_camera_gets_a_gradient():
    planes, decoder, _, _ = small(b=1)

    def total(euler):
        origins, directions = camera.rays(camera.from_pose(euler, jnp.zeros((1, 3))), 4)
        return render.render(planes, decoder, origins, directions, coarse=6, fine=0).feature.sum()

    grad = jax.jit(jax.grad(total))(jnp.array([[0.1, 0.2, 0.0]]))
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0


def test_misuse_is_named():
    planes, decoder, origins, directions = small()
    with pytest.raises(InputError, match="at least 4"):
        render.render(planes, decoder, origins, directions, coarse=3, fine=2)
    with pytest.raises(InputError, match="drop one"):
        render.render(planes, decoder, origins, directions, box=(1, 1, 1), limits=(2, 3))
    with pytest.raises(InputError, match="tri-planes"):
        render.sample_planes(planes[0], origins)
