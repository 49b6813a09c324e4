"""Rehearsal of adaptation: makes the shipped default from nothing, or goes on from a weight file.

python -m data_pipelines.people --out ~/r3p_data/people --count 3072 --seed 1
python -m r3p.train --config configs/rehearsal.py:small --workdir ~/r3p_runs/small --set data.people=~/r3p_data/people

Ten minutes on an H100 whose 16 processors draw the portraits.
"""

from ml_collections import ConfigDict

from configs import common
from configs.portrait import small_model
from r3p import adapt
from r3p.stages.portrait import UNIT_VARIANCE


def get_config(mode: str = "small") -> ConfigDict:
    """`small`: the shipped default. `smoke`: the same in a few steps."""
    config = common.base("rehearsal")
    config.start = ""  # a weight file, whose model is then the model
    config.model = small_model()
    config.seed = 7
    config.batch_size = 16
    # length: steps with one portrait; plain: rows with people of the folder `people`, who are never adapted to.
    config.data = dict(size=256, pncc_size=192, length=160, plain=4, people="people", workers=16)
    config.loss = dict(adapt.LOSS, distil=0.3)
    config.perceptual_size = 256  # pixels of what LPIPS sees: all of a frame
    config.perceptual_from, config.perceptual_full = 200, 1500  # steps between which LPIPS reaches its weight
    config.learning_rate = 1.5e-3
    config.warmup_steps = 100
    config.final_factor = 0.05
    config.learning_rate_factors = (("^canonical", 20.0), (UNIT_VARIANCE, 6.0))
    config.steady = ("^canonical",)
    config.batch_statistics = True  # off: the normalisation layers keep their running statistics, for small batches
    config.beta2 = 0.98
    config.steps = 5000
    config.checkpoint_every = 1000
    if mode == "smoke":
        config.steps, config.batch_size, config.log_every, config.checkpoint_every, config.preview_every = 4, 2, 2, 4, 4
        config.warmup_steps = 1
        config.data.update(length=2, plain=0, workers=0)
    elif mode != "small":
        raise ValueError(f"mode {mode!r}: choose small or smoke")
    return config
