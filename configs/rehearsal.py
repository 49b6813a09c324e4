"""Rehearsal of adaptation: makes the shipped default, from nothing.

python -m data_pipelines.people --out ~/r3p_data/people --count 2048 --seed 1
python -m r3p.train --config configs/rehearsal.py:small --workdir ~/r3p_runs/small --set data.people=~/r3p_data/people
python -m r3p.export --workdir ~/r3p_runs/small --out ~/r3p_runs/small.npz
python -m r3p.train --config configs/rehearsal.py:finish --workdir ~/r3p_runs/finish --set start=~/r3p_runs/small.npz
python -m r3p.export --workdir ~/r3p_runs/finish --out ~/r3p_runs/finish.npz
python -m r3p.train --config configs/rehearsal.py:spread --workdir ~/r3p_runs/spread --set start=~/r3p_runs/finish.npz
python -m r3p.export --workdir ~/r3p_runs/spread --out ~/r3p_runs/portrait.npz --halfway
python -m r3p.evaluate.held_out --out ~/r3p_runs/held_out --weights ~/r3p_runs/portrait.npz --record

`small` took five minutes on an H200 whose 16 processors drew the portraits, half of the time waiting for them;
`finish` takes half an hour on two processors, `spread` 40 minutes.
"""

from ml_collections import ConfigDict

from configs import common
from configs.portrait import small_model
from r3p import adapt
from r3p.stages.portrait import UNIT_VARIANCE


def get_config(mode: str = "small") -> ConfigDict:
    """`small`, `finish`, `spread`: the shipped default, in this order. `smoke`: a few steps.

    `finish` has small batches at a falling rate. `spread` goes on with expressions that lie over many units, as those
    of a driving video do; lips then open further and shut less well, and half of the way is taken (r3p.export).
    """
    config = common.base("rehearsal")
    config.start = ""  # a weight file, whose model is then the model
    config.model = small_model()
    config.seed = 7
    config.batch_size = 16
    # length: steps with one portrait; plain: rows with people of the folder `people`, who are never adapted to;
    # spread: share of expressions that lie over many units at once.
    config.data = dict(size=256, pncc_size=192, length=160, plain=4, people="people", workers=16, spread=0.0)
    config.loss = dict(adapt.LOSS, distil=0.3)
    config.perceptual_size = 256  # pixels of what LPIPS sees: all of a frame
    config.perceptual_from, config.perceptual_full = 200, 1500  # steps between which LPIPS reaches its weight
    config.batch_statistics = True  # off: the normalisation layers keep their running statistics, for small batches
    config.learning_rate = 1.5e-3
    config.warmup_steps = 100
    config.final_factor = 0.05
    config.learning_rate_factors = (("^canonical", 20.0), (UNIT_VARIANCE, 6.0))
    config.steady = ("^canonical",)
    config.beta2 = 0.98
    config.steps, config.schedule_steps = 1700, 5000
    config.checkpoint_every = 1000
    if mode == "small":
        return config
    config.perceptual_size, config.perceptual_from, config.perceptual_full = 64, 0, 1
    config.data.update(plain=0, workers=0)
    if mode in ("finish", "spread"):
        config.seed, config.steps, config.data.spread = {"finish": (11, 1300, 0.0), "spread": (13, 1800, 0.4)}[mode]
        config.schedule_steps = config.steps
        config.batch_size, config.batch_statistics, config.data.length = 2, False, 100
        config.learning_rate = 5e-4
        config.learning_rate_factors = (("^canonical", 50.0), (UNIT_VARIANCE, 6.0))
        config.warmup_steps, config.average_decay = 50, 0.998
        config.checkpoint_every, config.preview_every = 200, 400
    elif mode == "smoke":
        config.steps, config.schedule_steps, config.warmup_steps = 4, 0, 1
        config.batch_size, config.data.length = 2, 2
        config.log_every, config.checkpoint_every, config.preview_every = 2, 4, 4
    else:
        raise ValueError(f"mode {mode!r}: choose small, finish, spread or smoke")
    return config
