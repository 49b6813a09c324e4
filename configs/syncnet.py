"""SyncNet, whose judgement audio-to-motion can be trained with.

    python -m r3p.train --config configs/syncnet.py:full --workdir ~/r3p_runs/syncnet --set data.folder=FOLDER
    python -m r3p.export --workdir ~/r3p_runs/syncnet --out ~/r3p_runs/syncnet.npz

`full`: the network and the optimiser of the original, HuBERT-large features and the BFM's coefficients, 8,192 pairs a
step; 10.7 M parameters. The original takes all of a step's pairs from one utterance, whose "other person" is then the
same one; here they come from 256 windows of shuffled utterances. FOLDER: see `data_pipelines/utterances.py`. Memory: 16
windows a chip are planned to take 0.4 GiB of a TPU v5e's 15.75 (`r3p plan`, README).

`smoke`, minutes on two processors: the same with fewer channels, on synthetic people and mel bands in place of HuBERT.

    python -m data_pipelines.speech_people --out ~/r3p_data/utterances
    python -m r3p.train --config configs/syncnet.py:smoke --workdir ~/r3p_runs/syncnet_smoke \
        --set data.folder=~/r3p_data/utterances
"""

from ml_collections import ConfigDict

from configs import common


def get_config(mode: str = "full") -> ConfigDict:
    """`full`: the original's. `smoke`: smaller, in a few hundred steps."""
    config = common.base("syncnet")
    config.model = dict(features=1024, width=128, mouth_stem=96, depth=3)
    # features: channels of the sound's features. bfm: the folder of the BFM; the built-in head when empty.
    # window: video frames. pairs: of a window.
    config.data = dict(folder="utterances", features=1024, bfm="bfm", window=100, pairs=32)
    config.learning_rate = 1e-3
    config.beta2 = 0.999
    config.batch_size = 256
    config.steps = 4_000_000  # a cap: it is stopped when the loss of held-out people no longer falls
    config.log_every, config.checkpoint_every = 100, 1000
    config.held_out_batches = 10  # of an evaluation
    if mode == "smoke":
        config.model = dict(features=64, width=16, mouth_stem=16, depth=2)
        config.data = dict(folder="utterances", features=80, bfm="", window=60, pairs=16)
        config.batch_size = 16
        config.steps, config.average_decay, config.held_out_batches = 300, 0.98, 3
        config.log_every, config.checkpoint_every, config.evaluate_every = 25, 100, 100
    elif mode != "full":
        raise ValueError(f"mode {mode!r}: choose full or smoke")
    return config
