"""The audio-to-motion networks against the official code, and facts that hold for every width."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import traverse_util

from r3p import convert
from r3p.models.audio2motion import AudioToMotion, pitch_code
from r3p.names import audio2motion as names

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
# official submodule -> ours, as captured intermediates
SEAMS = {
    "mel_encoder": "audio_encoder",
    "pitch_encoder": "pitch_encoder",
    "cond_proj": "condition",
    "vae_g_pre_net": "condition_down",
    "enc_pre_net": "encoder/pre",
    "enc_wn": "encoder/net",
    "enc_out_proj": "encoder/post",
    "dec_pre_net": "decoder/pre",
    "dec_wn": "decoder/net",
    "flow0.0": "flow/step0",
    "flow2.0": "flow/step1",
    "flow6_reverse.0": "flow/step3",
    "flow0_reverse.0": "flow/step0",
}
# these are recorded [b, t, c], all other seams [b, c, t]
TIME_FIRST = ("cond_proj",)


def models() -> dict[str, tuple[AudioToMotion, list[convert.Rule]]]:
    plain = AudioToMotion(pitch=False, condition_width=64, mouth_amplitude=False, pairing="mean")
    return {"a2m_pitch": (AudioToMotion(), names.RULES), "a2m_vae": (plain, names.PLAIN_RULES)}


@functools.lru_cache(maxsize=1)
def converted(model: str):
    network, rules = models()[model]
    return network, convert.to_variables(parity.official_weights(model), rules)


def arguments(x):
    def optional(k):
        return jnp.asarray(x[k]) if k in x else None

    sound = (jnp.asarray(x["audio"]), optional("f0"), optional("blink"), optional("mouth_amp"))
    return sound, jnp.asarray(x["eps"]).transpose(0, 2, 1)


def check_volumes(recorded):
    """The official couplings give their log-determinant beside the latent: it is zero, ours do without."""
    for name in (n for n in recorded if n.startswith("flow") and n.endswith(".1")):
        assert not recorded[name].any(), name


def check_seams(case, meta, recorded, intermediates):
    for theirs, ours in SEAMS.items():
        if theirs not in recorded:
            continue
        node = intermediates
        for part in ours.split("/"):
            node = node[part]
        value = node["__call__"][0]
        parity.check(case, meta, recorded, theirs, value if theirs in TIME_FIRST else value.transpose(0, 2, 1))


GRADIENTS = {
    "mel_encoder.0.weight": "audio_encoder/conv0/kernel",
    "vae.encoder.wn.in_layers.3.weight_v": "encoder/net/in3/kernel",
    "vae.encoder.out_proj.weight": "encoder/post/kernel",
    "vae.decoder.pre_net.0.weight": "decoder/pre/kernel",
    "vae.prior_flow.flows.2.pre.weight": "flow/step1/pre/kernel",
}


@pytest.mark.parametrize("case", ["a2m_train", "a2m_train_bn", "a2m_vae"])
def test_posterior_path_matches_official(case):
    """Outputs, seams, running statistics and, where they were recorded, the gradients."""
    meta, x, recorded = parity.load_case(case)
    network, variables = converted(meta["model"])
    train, with_gradients = case == "a2m_train_bn", "grad_total" in recorded
    sound, noise = arguments(x)

    def forward(params, y, audio, stats):
        out, extra = network.apply(
            {"params": params, "batch_stats": stats}, y, audio, *sound[1:], noise=noise, mask=x["y_mask"], train=train,
            method="reconstruct", mutable=["batch_stats", "intermediates"], capture_intermediates=True,
        )  # fmt: skip
        if not with_gradients:
            return jnp.float32(0), (out, extra)
        cot_y = parity.cotangent(case, "x_recon", meta["outputs"]["x_recon"]["shape"])
        cot_kl = parity.cotangent(case, "loss_kl", meta["outputs"]["loss_kl"]["shape"])
        return jnp.sum(out.expression * cot_y) + jnp.sum(out.kl * cot_kl), (out, extra)

    call = jax.jit(jax.value_and_grad(forward, argnums=(0, 1, 2), has_aux=True) if with_gradients else forward)
    arrays = (variables["params"], jnp.asarray(x["y"]), sound[0])
    result = call(*arrays, variables["batch_stats"])
    (total, (out, extra)), gradients = result if with_gradients else (result, None)
    for name, value in (
        ("x_recon", out.expression), ("loss_kl", out.kl.reshape(recorded["loss_kl"].shape)), ("m_q", out.mean),
        ("logs_q", out.log_scale), ("z_p", out.prior), ("flow7.0", out.prior.transpose(0, 2, 1)),
    ):  # fmt: skip
        parity.check(case, meta, recorded, name, value)
    check_seams(case, meta, recorded, extra["intermediates"])
    check_volumes(recorded)
    if "x_infer_t05" in recorded:
        prior = jax.jit(lambda v, *sound: network.apply(v, *sound, noise=noise * 0.5, mask=x["y_mask"]))
        parity.check(case, meta, recorded, "x_infer_t05", prior(variables, *sound))
    if train:
        # the recorded running statistics had seen two forward passes
        stats = call(*arrays, extra["batch_stats"])[0][1][1]["batch_stats"]["audio_encoder"]["norm"]
        parity.check(case, meta, recorded, "mel_bn_running_mean", stats["mean"])
        parity.check(case, meta, recorded, "mel_bn_running_var", stats["var"])
    if gradients is not None:
        params, y, audio = gradients
        parity.check(case, meta, recorded, "grad_total", total.reshape(recorded["grad_total"].shape))
        parity.check(case, meta, recorded, "grad/y", y)
        parity.check(case, meta, recorded, "grad/audio", audio)
        parity.check(case, meta, recorded, "grad/pitch_embed.weight", params["pitch_embedding"]["embedding"])
        flat = traverse_util.flatten_dict(params, sep="/")
        for theirs, ours in GRADIENTS.items():
            parity.check(case, meta, recorded, f"grad/{theirs}", flat[ours].transpose(2, 1, 0))


@pytest.mark.parametrize(("case", "temperature"), [("a2m_infer_t02", 0.2), ("a2m_infer_t10", 1.0)])
def test_prior_path_matches_official(case, temperature):
    meta, x, recorded = parity.load_case(case)
    network, variables = converted(meta["model"])
    sound, noise = arguments(x)

    @jax.jit
    def sample(variables, *sound):
        return network.apply(variables, *sound, noise=noise * temperature, mask=x["y_mask"], capture_intermediates=True)

    y, extra = sample(variables, *sound)
    parity.check(case, meta, recorded, "x_recon", y)
    check_seams(case, meta, recorded, extra["intermediates"])
    check_volumes(recorded)

    def unconditioned(m, noise):
        down = m.condition_down(jnp.zeros((*y.shape[:2], m.condition_width)))
        return m.flow(noise, down, jnp.ones((1, 1, 1)), reverse=True)

    z = jax.jit(lambda v: network.apply(v, noise * temperature, method=unconditioned))(variables)
    parity.check(case, meta, recorded, "z_given_zero_condition", z)


@pytest.mark.parametrize("model", ["a2m_pitch", "a2m_vae"])
def test_official_names_fill_the_network(model):
    network, variables = converted(model)
    audio, f0 = jax.ShapeDtypeStruct((1, 8, 1024), jnp.float32), jax.ShapeDtypeStruct((1, 8), jnp.float32)
    wanted = jax.eval_shape(lambda a, f: network.init(jax.random.key(0), a, f, method="everything"), audio, f0)
    convert.check_against(variables, wanted)
    count = sum(int(np.prod(v.shape)) for v in jax.tree.leaves(wanted["params"]))
    # an unused blink embedding of 2 x 64 is part of the official 10.80 M
    assert round(count / 1e6, 2) == {"a2m_pitch": 11.86, "a2m_vae": 10.8}[model]


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
