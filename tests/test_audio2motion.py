"""The audio-to-motion networks against the official code, and facts that hold for every width."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r3p.models.audio2motion import AudioToMotion, pitch_code

SMALL = {
    "expression": 64,
    "condition_width": 16,
    "latent": 8,
    "width": 24,
    "kernel_size": 3,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "flow_steps": 2,
    "flow_width": 8,
    "flow_layers": 1,
    "pairing": "stack",
}


def test_pitch_code_edges():
    code = pitch_code(jnp.array([0.0, 20.0, 50.0, 1100.0, 4000.0]))
    assert code.tolist() == [1, 1, 1, 255, 255]


@functools.lru_cache(maxsize=1)
def small():
    network, draw = AudioToMotion(**SMALL), np.random.default_rng(0)
    audio = jnp.asarray(draw.normal(size=(2, 32, 20)), jnp.float32)
    f0 = jnp.full((2, 32), 140.0)
    shapes = jax.eval_shape(lambda r: network.init(r, audio, f0, method="everything"), jax.random.key(0))
    # every leaf drawn, so that no zero start hides a path
    variables = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.3, leaf.shape), leaf.dtype), shapes)
    return network, {**variables, "batch_stats": jax.tree.map(jnp.exp, variables["batch_stats"])}, audio, f0


def test_flow_runs_backwards_exactly():
    network, variables, audio, f0 = small()
    z = jax.random.normal(jax.random.key(3), (2, 4, 8))

    def there_and_back(m, z):
        condition = m.condition_down(m.encode_sound(audio, f0))
        ones = jnp.ones((1, 1, 1))
        return m.flow(m.flow(z, condition, ones), condition, ones, reverse=True)

    back = jax.jit(lambda z: network.apply(variables, z, method=there_and_back))(z)
    np.testing.assert_allclose(back, z, atol=1e-4)


def test_prior_path_is_deterministic_without_noise_and_keeps_rows_apart():
    network, variables, audio, f0 = small()
    call = jax.jit(network.apply)
    y = call(variables, audio, f0)
    assert y.shape == (2, 16, 64)
    np.testing.assert_array_equal(y, call(variables, audio, f0))
    # a batch row never sees another one
    mixed = call(variables, audio.at[1].set(0), f0)
    np.testing.assert_allclose(y[0], mixed[0], atol=1e-5)
    noisy = call(variables, audio, f0, noise=jax.random.normal(jax.random.key(4), (2, 4, 8)))
    assert jnp.abs(noisy - y).max() > 1e-3


def test_padding_does_not_reach_the_posterior():
    network, variables, audio, f0 = small()
    y = jax.random.normal(jax.random.key(5), (2, 16, 64))
    mask = (jnp.arange(16) < 8).astype(jnp.float32)[None].repeat(2, 0)

    @jax.jit
    def reconstruct(y):
        return network.apply(variables, y, audio, f0, noise=jnp.zeros((2, 4, 8)), mask=mask, method="reconstruct")

    out = reconstruct(y)
    assert not np.any(np.asarray(out.expression[:, 8:]))


def test_errors_name_the_value_found():
    network, variables, audio, f0 = small()
    with pytest.raises(ValueError, match="30 audio frames: expected a multiple of 8"):
        network.apply(variables, audio[:, :30], f0[:, :30])
    with pytest.raises(ValueError, match="pitch of shape None"):
        network.apply(variables, audio)
    with pytest.raises(ValueError, match="pairing is 'last'"):
        AudioToMotion(pairing="last").init(jax.random.key(0), audio, f0)
