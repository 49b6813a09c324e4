"""The toy stage's config: `tests/toys/config.py`."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.base("toys.stage")
    config.width = 16
    config.noise = 0.1
    config.bad_step = -1  # the batch of this step holds a number that is not finite
    config.bad_process = -1  # if that is to be in the share of one process only, which one
    config.bad_gradient = -1  # the gradient of this step is not finite, though the loss is
    config.record = ""  # a file's beginning: what is read is written there
    config.pause = 0.0  # seconds that a batch takes to draw
    config.learning_rate, config.warmup_steps, config.clip_norm = 1e-2, 0, 10.0
    config.batch_size, config.steps = 16, 4
    config.fsdp_least = 1
    config.log_every, config.checkpoint_every, config.preview_every, config.evaluate_every = 1, 2, 4, 4
    return config
