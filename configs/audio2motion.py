"""The small speech-to-expression network, trained on synthetic speech.

    python -m data_pipelines.speech --out ~/r3p_data/speech --utterances 7300 --seed 1
    python -m r3p.train --config configs/audio2motion.py:small --workdir ~/r3p_runs/a2m \
        --set data.path=~/r3p_data/speech/speech.npz
"""

from ml_collections import ConfigDict

from configs import common


def small_model() -> dict:
    """Fields of `r3p.models.audio2motion.AudioToMotion`: 80 mel bands in, 64 units out, about 1 M parameters."""
    return dict(
        expression=64,
        condition_width=96,
        latent=8,
        width=96,
        kernel_size=5,
        encoder_layers=2,
        decoder_layers=4,
        flow_steps=2,
        flow_width=32,
        flow_kernel_size=3,
        flow_layers=2,
        stride=4,
        pairing="stack",
    )


def get_config(mode: str = "small") -> ConfigDict:
    """`small`: the shipped default. `smoke`: the same in a few steps."""
    config = common.base("audio2motion")
    config.model = small_model()
    config.data = dict(path="speech/speech.npz", bands=80, crop=80)
    # `posterior`: the share of a batch that is decoded from the posterior; the rest from the prior's samples.
    config.posterior = 0.25
    config.kl_steps = 500
    config.loss = dict(units=1.0, gap=10.0, velocity=2.0, kl=0.02)
    config.learning_rate = 2e-3
    config.batch_size = 16
    config.steps = 18000
    config.average_decay = 0.99
    config.log_every = 25
    config.checkpoint_every = 100
    if mode == "smoke":
        config.steps, config.warmup_steps, config.batch_size = 4, 2, 4
        config.log_every, config.checkpoint_every = 2, 4
    elif mode != "small":
        raise ValueError(f"mode {mode!r}: choose small or smoke")
    return config
