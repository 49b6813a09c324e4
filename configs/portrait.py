"""The small model, every inference network trained together on synthetic people; `configs/rehearsal.py` does better.

python -m data_pipelines.people --out ~/r3p_data/people --count 2048 --seed 1
python -m r3p.train --config configs/portrait.py:small --workdir ~/r3p_runs/small --set data.folder=~/r3p_data/people
"""

from ml_collections import ConfigDict

from configs import common
from r3p.stages.portrait import UNIT_VARIANCE


def small_model() -> dict:
    """Fields of `r3p.models.portrait.Portrait`: 256^2 frames from 128^2 rays, planes of 192^2 x 16."""
    return dict(
        source_size=192,
        img2plane_fields=dict(
            channels=16,
            resnet=dict(widths=(16, 24, 32, 48), blocks=(1, 1, 1, 1)),
            pooling=dict(width=32, rates=(4, 8, 12), dropout=0.0),
            low=dict(width=96, blocks=2, heads=4, convs=(32, 32), features=24),
            high=dict(stem=16, width=24, convs=2),
            fusion=dict(before=(32, 32), width=64, blocks=1, heads=2, after=(48, 32, 32)),
        ),
        adapter_fields=dict(
            channels=16,
            mixed=9,
            contrast=4.0,
            encoder=dict(
                depths=(1, 1, 1, 1), widths=(24, 32, 64, 96), heads=(1, 2, 2, 4), reductions=(8, 4, 2, 1), stride=2,
                drop_path=0.0,
            ),
            width=48,
            upsample=1,
            dropout=0.0,
            out_scale=0.2,
        ),
        decoder_fields=dict(hidden=48, features=32),
        superres_fields=dict(
            widths=(32, 16),
            raw_resolution=128,
            up=1,
            style_width=32,
            background_width=16,
            fuse_width=24,
            torso_fields=dict(
                appearance_widths=(24, 48, 96),
                volume_channels=24,
                volume_depth=4,
                appearance_residuals=1,
                compressed_channels=4,
                motion_widths=(16, 24, 32, 48),
                head_width=12,
                head_residuals=1,
                generator_widths=(96, 48, 24),
                generator_residuals=1,
                refiner_widths=(8, 8),
                mask_dilation=3,
            ),
        ),
        double_planes=True,
        coarse=10,
        fine=8,
        box=(0.9, 1.0, 0.62),  # hair included
        shared_limits=False,
        chunk=2048,
    )  # fmt: skip


def get_config(mode: str = "small") -> ConfigDict:
    """`small`: for the shipped default's model. `smoke`: the same in a few steps."""
    config = common.base("portrait")
    config.model = small_model()
    config.data = dict(folder="people", size=256, pncc_size=192, count=0)
    config.loss = dict(raw=1.0, raw_mask=0.5, image=2.0, edges=1.0, torso=0.5, person=0.3, entropy=0.01)
    config.learning_rate = 1.5e-3
    config.learning_rate_factors = ((UNIT_VARIANCE, 6.0),)
    config.beta2 = 0.98
    config.batch_size = 2
    config.steps = 3600
    if mode == "smoke":
        config.steps, config.warmup_steps, config.batch_size = 4, 1, 1
        config.log_every, config.checkpoint_every, config.preview_every = 2, 4, 4
    elif mode != "small":
        raise ValueError(f"mode {mode!r}: choose small or smoke")
    return config
