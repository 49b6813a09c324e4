"""Speech to expression: the paper's network, and the small one that the package carries.

`full`: the paper's; 11.9 M parameters, HuBERT-large features, pitch, blinks and mouth amplitude, 250 utterances a step
in buckets by length, the original's losses, optimiser and 400,000 steps. Its judge comes first, see configs/syncnet.py.
FOLDER: see `data_pipelines/utterances.py`. Memory: 15 of the longest utterances a chip are planned to take 0.8 GiB of a
TPU v5e's 15.75 (`r3p plan`, README); a batch of 250 wants a number of chips that divides it, or another `batch_size`.

    python -m r3p.train --config configs/audio2motion.py:full --workdir ~/r3p_runs/a2m_full \
        --set data.folder=FOLDER --set syncnet=~/r3p_runs/syncnet.npz

`smoke`, minutes on two processors: the same with fewer channels, on synthetic people and mel bands in place of HuBERT.

    python -m data_pipelines.speech_people --out ~/r3p_data/utterances
    python -m r3p.train --config configs/audio2motion.py:smoke --workdir ~/r3p_runs/a2m_smoke \
        --set data.folder=~/r3p_data/utterances --set syncnet=~/r3p_runs/syncnet_smoke.npz

`small`: the shipped default, trained on synthetic speech; `small_smoke` is a few steps of it.

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


def full_model() -> dict:
    """The same class at the paper's sizes."""
    return dict(
        expression=64,
        condition_width=128,
        latent=16,
        width=256,
        kernel_size=5,
        encoder_layers=8,
        decoder_layers=4,
        flow_steps=4,
        flow_width=64,
        flow_kernel_size=3,
        flow_layers=4,
        stride=4,
        pairing="first",
    )


def get_config(mode: str = "small") -> ConfigDict:
    """`full`, `smoke`: the paper's. `small`: the shipped default. `small_smoke`: the same in a few steps."""
    if mode in ("full", "smoke"):
        return _paper(smoke=mode == "smoke")
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
    config.held_out_batches = 10  # of an evaluation
    if mode == "small_smoke":
        config.steps, config.warmup_steps, config.batch_size = 4, 2, 4
        config.log_every, config.checkpoint_every, config.held_out_batches = 2, 4, 2
    elif mode != "small":
        raise ValueError(f"mode {mode!r}: choose full, smoke, small or small_smoke")
    return config


def _paper(smoke: bool) -> ConfigDict:
    config = common.base("audio2motion_paper")
    config.model = full_model()
    # features: channels of the sound's features. bfm: the folder of the BFM; the built-in head when empty.
    # lengths: to which utterances are padded, in video frames; longer ones are cut at random to the last.
    config.data = dict(folder="utterances", features=1024, bfm="bfm", lengths=(64, 128, 192, 256, 384, 512))
    config.loss = dict(expression=0.5, landmarks=0.5, laplacian=1.0, size=0.1, sync=0.2)
    config.kl = dict(top=0.02, ramp=2000, hold=2000)
    config.zero_ends = False  # the original's curvature, which pulls an utterance's first and last frame to zero
    config.syncnet = ""  # a weight file; needed unless loss.sync is 0
    config.sync_clips = 32  # of an utterance
    config.held_out_batches = 10  # of an evaluation
    config.learning_rate, config.warmup_steps, config.decade = 5e-4, 1000, 250_000
    config.beta2 = 0.999
    config.batch_size = 250
    config.steps = 400_000
    config.log_every, config.checkpoint_every = 100, 1000
    if smoke:
        config.model.update(
            condition_width=32, latent=4, width=32, encoder_layers=2, decoder_layers=2, flow_steps=2, flow_width=16,
            flow_layers=1,
        )  # fmt: skip
        config.data = dict(folder="utterances", features=80, bfm="", lengths=(96, 128))
        config.kl.update(ramp=50, hold=50)
        config.sync_clips = 4
        config.learning_rate, config.warmup_steps, config.decade = 3e-3, 20, 1000
        config.batch_size = 8
        config.steps, config.average_decay, config.held_out_batches = 300, 0.98, 3
        config.log_every, config.checkpoint_every, config.evaluate_every = 25, 100, 100
    return config
