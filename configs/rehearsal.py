"""Rehearsal of adaptation, after `configs/portrait.py`: makes the shipped default.

python -m r3p.train --config configs/rehearsal.py:small --workdir ~/r3p_runs/rehearsal --set start=~/r3p_runs/small.npz
"""

from ml_collections import ConfigDict

from configs import common


def get_config(mode: str = "small") -> ConfigDict:
    """`small`: the shipped default. `smoke`: the same in a few steps."""
    config = common.base("rehearsal")
    config.start = "r3p/assets/portrait.npz"
    config.seed = 7
    config.data = dict(size=256, pncc_size=192, length=80)  # length: steps with one portrait
    config.loss = dict(raw=1.0, raw_mask=0.5, image=2.0, edges=1.0, torso=0.5, person=0.3, entropy=0.01, lpips=0.5)
    config.learning_rate = 1e-3
    config.warmup_steps = 50
    config.final_factor = 0.2
    # The planes' steps are those of an adaptation; kernels stored with unit variance need larger ones than others.
    config.learning_rate_factors = (
        ("^canonical", 25.0),
        ("^decoder|^superres/(block|head_torso_block)|^adapter/mix", 6.0),
    )
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
