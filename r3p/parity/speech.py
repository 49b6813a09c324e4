"""Golden cases of audio-to-motion, the SyncNets and HuBERT."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r3p.models.syncnet import clip_loss, confidence, cosine, sync_loss
from r3p.parity.cases import Case, Runner, Values, parameter_gradients
from r3p.parity.layouts import captured, channels_first

# Official submodule -> ours. These are recorded [b, c, t], that of `TIME_FIRST` [b, t, c].
_SEAMS = {
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
_TIME_FIRST = ("cond_proj",)
_TEMPERATURES = {"a2m_infer_t02": 0.2, "a2m_infer_t10": 1.0}


# ------------------------------------------------------------------------------------------------ audio to motion
def _sound(case: Case) -> tuple[tuple[Any, ...], Any]:
    """Sound, pitch, blinks, mouth amplitudes (None for what the network does not take); noise [b, t, c]."""
    x = case.inputs
    sound = tuple(jnp.asarray(x[k]) if k in x else None for k in ("audio", "f0", "blink", "mouth_amp"))
    return sound, jnp.asarray(x["eps"]).transpose(0, 2, 1)


def _motion_seams(case: Case, state: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        theirs: value if theirs in _TIME_FIRST else channels_first(value)
        for theirs, ours in _SEAMS.items()
        if theirs in case.recorded
        for value in [captured(state, ours)]
    }
    # The official couplings give their log-determinant beside the latent: it is zero, ours do without.
    volumes = (n for n in case.recorded if n.startswith("flow") and n.endswith(".1"))
    return values | {n: np.zeros(case.shape(n)) for n in volumes}


def posterior(case: Case) -> Values:
    """Motion and sound to the motion again; in training mode for `a2m_train_bn`."""
    model: Any = case.network.module
    x, train, with_gradients = case.inputs, case.name == "a2m_train_bn", "grad_total" in case.recorded
    sound, noise = _sound(case)
    weigh = {k: case.cotangent(k) for k in ("x_recon", "loss_kl")}

    def forward(params: Any, y: Any, audio: Any, statistics: Any) -> Any:
        out, state = model.apply(
            {"params": params, "batch_stats": statistics}, y, audio, *sound[1:], noise=noise, mask=x["y_mask"],
            train=train, method="reconstruct", mutable=["batch_stats", "intermediates"], capture_intermediates=True,
        )  # fmt: skip
        total = jnp.sum(out.expression * weigh["x_recon"]) + jnp.sum(out.kl * weigh["loss_kl"])
        return total, (out, state)

    call = jax.jit(jax.value_and_grad(forward, argnums=(0, 1, 2), has_aux=True) if with_gradients else forward)
    arrays = case.variables["params"], jnp.asarray(x["y"]), sound[0]
    result = call(*arrays, case.variables["batch_stats"])
    (total, (out, state)), gradients = result if with_gradients else (result, None)
    values = {
        "x_recon": out.expression,
        "loss_kl": np.reshape(out.kl, case.shape("loss_kl")),
        "m_q": out.mean,
        "logs_q": out.log_scale,
        "z_p": out.prior,
        "flow7.0": channels_first(out.prior),
        **_motion_seams(case, state),
    }
    if "x_infer_t05" in case.recorded:
        infer = jax.jit(lambda v, *sound: model.apply(v, *sound, noise=noise * 0.5, mask=x["y_mask"]))
        values["x_infer_t05"] = infer(case.variables, *sound)
    if train:
        # The recorded running statistics had seen two forward passes.
        statistics = call(*arrays, state["batch_stats"])[0][1][1]["batch_stats"]["audio_encoder"]["norm"]
        values |= {"mel_bn_running_mean": statistics["mean"], "mel_bn_running_var": statistics["var"]}
    if gradients is not None:
        params, y, audio = gradients
        values |= {"grad_total": np.reshape(total, case.shape("grad_total")), "grad/y": y, "grad/audio": audio}
        values |= parameter_gradients(case, params)
    return values


def prior(case: Case) -> Values:
    """Sound to motion; the latent also without condition, through the flow alone."""
    model: Any = case.network.module
    sound, noise = _sound(case)
    noise *= _TEMPERATURES[case.name]

    @jax.jit
    def sample(variables: Any, *sound: Any) -> Any:
        return model.apply(variables, *sound, noise=noise, mask=case.inputs["y_mask"], capture_intermediates=True)

    y, state = sample(case.variables, *sound)

    def unconditioned(m: Any, noise: Any) -> Any:
        down = m.condition_down(jnp.zeros((*y.shape[:2], m.condition_width)))
        return m.flow(noise, down, jnp.ones((1, 1, 1)), reverse=True)

    latent = jax.jit(lambda v: model.apply(v, noise, method=unconditioned))(case.variables)
    return {"x_recon": y, "z_given_zero_condition": latent, **_motion_seams(case, state)}


# ------------------------------------------------------------------------------------------------ the others
def syncnet(case: Case) -> Values:
    """Embeddings, losses, gradients and the pass with batch statistics."""
    model: Any = case.network.module
    audio, mouth, label = (jnp.asarray(case.inputs[k]) for k in ("hubert", "mouth", "label"))
    out = jax.jit(model.apply)(case.variables, audio, mouth)
    values = {
        "audio_embedding": out.audio,
        "mouth_embedding": out.mouth,
        "sync_loss": sync_loss(out.audio, out.mouth, label),
        "cosine": cosine(*out),
        "clip_loss": clip_loss(*out)[None],
        "sync_conf": confidence(*out),
    }
    if "train_bn/audio_embedding" in case.recorded:
        run = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
        pair, _ = run(case.variables, audio, mouth)
        values |= {"train_bn/audio_embedding": pair.audio, "train_bn/mouth_embedding": pair.mouth}
    if "grad_total" in case.recorded:
        weigh = [case.cotangent(k, like=f"{k}_embedding") for k in ("audio", "mouth")]

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
        def total(params: Any, audio: Any, mouth: Any) -> Any:
            pair = model.apply({**case.variables, "params": params}, audio, mouth)
            return sum(jnp.sum(a * w) for a, w in zip(pair, weigh, strict=True))

        value, (grads, audio_grad, mouth_grad) = total(case.variables["params"], audio, mouth)
        values |= {"grad_total": value[None], "grad/hubert": audio_grad, "grad/mouth": mouth_grad}
        values |= parameter_gradients(case, grads)
    return values


def hubert(case: Case) -> Values:
    wave = case.inputs["wave"]
    wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    run = jax.jit(lambda v, x: case.network.module.apply(v, x, capture_intermediates=True))
    out, state = run(case.variables, wave)
    return {
        "last_hidden_state": out,
        "feature_extractor": channels_first(captured(state, "extractor")[0]),
        "feature_projection": captured(state, "projection"),
        "pos_conv_embed": captured(state, "position"),
        "encoder.layers.0": captured(state, "layer0"),
    }


RUNNERS: dict[str, Runner] = {
    "a2m_train": posterior,
    "a2m_train_bn": posterior,
    "a2m_vae": posterior,
    "a2m_infer_t02": prior,
    "a2m_infer_t10": prior,
    "syncnet": syncnet,
    "syncnet_lip": syncnet,
    "hubert_small": hubert,
    "hubert_base_small": hubert,
    "hubert_large": hubert,
}
