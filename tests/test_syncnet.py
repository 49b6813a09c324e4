"""SyncNets against the official code, and what holds for every width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import drawn, quick_jit

from r3p.errors import InputError
from r3p.models.syncnet import SyncNet, clip_loss, confidence, cosine, sync_loss

TINY = SyncNet(features=12, width=4, mouth_stem=6, depth=2)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def clips(b=3, landmarks=6, seed=0):
    rng = np.random.default_rng(seed)
    audio, mouth = rng.standard_normal((b, 10, 8)), rng.standard_normal((b, 5, 3 * landmarks))
    return audio.astype(np.float32), mouth.astype(np.float32)


def test_embeddings_are_unit_vectors_without_negative_entries():
    audio, mouth = clips()
    out = quick_jit(TINY.apply)(drawn(TINY, audio, mouth), audio, mouth)
    for embedding in out:
        assert embedding.shape == (3, 12) and (embedding >= 0).all()
        np.testing.assert_allclose(jnp.linalg.norm(embedding, axis=-1), 1, rtol=1e-5)
    p = cosine(*out)
    assert ((p >= 0) & (p <= 1 + 1e-6)).all()
    np.testing.assert_allclose(jnp.diagonal(confidence(*out)), p, atol=1e-6)


def test_training_reaches_every_parameter_and_statistic():
    audio, mouth = clips(b=6)
    variables = drawn(TINY, audio, mouth)

    def loss(params):
        out, updated = TINY.apply({**variables, "params": params}, audio, mouth, train=True, mutable=["batch_stats"])
        return sync_loss(*out, jnp.array([1, 0, 1, 0, 1, 0])).mean(), updated

    (_, updated), grads = quick_jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.isfinite(grad).all(), path
        # batch statistics take the mean away, and with it what a bias before them adds
        assert "bias" in str(path[-1]) or jnp.any(grad), path
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), updated["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_loss_at_its_edges_is_finite():
    one, other = jnp.eye(2)[:1], jnp.eye(2)[1:]
    assert sync_loss(one, one, jnp.ones(1))[0] == 0
    assert sync_loss(one, other, jnp.zeros(1))[0] == 0
    assert sync_loss(one, other, jnp.ones(1))[0] == 100
    assert sync_loss(one, one, jnp.zeros(1))[0] == 100
    grads = jax.grad(lambda a: sync_loss(a, other, jnp.ones(1)).sum())(one)
    assert jnp.isfinite(grads).all()
    half = jnp.full((1, 1), 0.5)
    assert sync_loss(half, jnp.ones((1, 1)), jnp.ones(1))[0] == pytest.approx(np.log(2))


def test_a_silent_clip_has_a_finite_gradient():
    audio, mouth = clips(b=1)
    variables = drawn(TINY, audio, mouth)
    params = variables["params"]
    last = params["audio_encoder"]["block10"]["norm"]
    last["scale"], last["bias"] = np.zeros_like(last["scale"]), -np.ones_like(last["bias"])

    def loss(params):
        return sync_loss(*TINY.apply({**variables, "params": params}, audio, mouth), jnp.ones(1)).sum()

    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(quick_jit(jax.grad(loss))(params)))


def test_clip_loss_of_equal_scores_is_the_logarithm_of_the_batch():
    same = jnp.ones((5, 1))
    assert clip_loss(same, same) == pytest.approx(np.log(5), rel=1e-6)


def test_wrong_lengths_are_refused():
    audio, mouth = clips()
    with pytest.raises(InputError, match="a clip of 20 frames ends as 3"):
        jax.eval_shape(TINY.init, jax.random.key(0), np.concatenate([audio, audio], 1), mouth)
