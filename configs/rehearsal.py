"""Rehearsal of adaptation, after `configs/portrait.py`: makes the shipped default.

python -m r3p.train --config configs/rehearsal.py:small --workdir ~/r3p_runs/rehearsal --set start=~/r3p_runs/small.npz
"""

from ml_collections import ConfigDict

from configs import common
from r3p import adapt
from r3p.stages.portrait import UNIT_VARIANCE


def get_config(mode: str = "small") -> ConfigDict:
    """`small`: the shipped default. `smoke`: the same in a few steps."""
    config = common.base("rehearsal")
    config.start = "r3p/assets/portrait.npz"
    config.seed = 7
    config.data = dict(size=256, pncc_size=192, length=80)  # length: steps with one portrait
    config.loss = dict(adapt.LOSS)
    config.learning_rate = 1e-3
    config.warmup_steps = 50
    config.final_factor = 0.2
    config.learning_rate_factors = (("^canonical", 25.0), (UNIT_VARIANCE, 6.0))
    config.beta2 = 0.98
    config.steps, config.schedule_steps = 5600, 6400
    if mode == "smoke":
        config.steps, config.data.length, config.log_every, config.checkpoint_every, config.preview_every = (
            4,
            2,
            2,
            4,
            4,
        )
    elif mode != "small":
        raise ValueError(f"mode {mode!r}: choose small or smoke")
    return config
