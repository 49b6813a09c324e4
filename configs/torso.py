"""The torso stage: the super-resolution that fuses head, torso and background.

`full`: the paper's size, from a run of the head stage, whose super-resolution's two blocks are gone on with:

    python -m r3p.train --config configs/torso.py:full --workdir ~/r3p_runs/torso --set start=~/r3p_runs/head \
        --set data.source=shards --set data.folder=~/r3p_data/frames --set perceptual.vgg19=vgg19 \
        --set perceptual.vggface=vggface

The original ran it on 8 GPUs with one example each: 100,000 steps, the discriminator learns from 30,000 on and is to be
fooled from 40,000 on. `batch_size` is of all devices together and wants a multiple of two. Memory: one example a chip
is planned to take 12.5 GiB of a TPU v5e's 15.75, of which the train state is 2.0 (`r3p plan`, README).

`smoke`: a tiny model and synthetic people on the same path, minutes on two cores:

    python -m r3p.train --config configs/torso.py:smoke --workdir ~/r3p_runs/torso_smoke
"""

from ml_collections import ConfigDict

from configs import common
from configs.img2plane import FULL_WIDTHS, discriminator, full_model, perceptual, tiny_model
from configs.motion2plane import frame_terms, tiny_adapter


def tiny_superres() -> dict:
    """Fields of `r3p.models.superres.TorsoSuperResolution` beside `tiny_model`."""
    return dict(
        **tiny_model()["superres_fields"],
        background_width=8,
        fuse_width=12,
        torso_fields=dict(
            appearance_widths=(8, 12, 16),
            volume_channels=8,
            volume_depth=2,
            appearance_residuals=1,
            compressed_channels=2,
            motion_widths=(8, 12),
            head_width=6,
            head_residuals=1,
            generator_widths=(16, 12, 8),
            generator_residuals=1,
            refiner_widths=(6,),
            mask_dilation=3,
        ),
        detector_fields=dict(resolution=32, widths=(8, 12), last_width=8, kernel_size=3),  # of unsupervised key points
    )


def get_config(mode: str = "full") -> ConfigDict:
    """`full`: the paper's values. `smoke`: the same path in minutes."""
    config = common.base("torso")
    config.start = ""  # a weight file, a folder of `r3p convert`, or the workdir of a run
    config.discriminator = ""  # a folder of `r3p convert`; "" = fresh
    config.model = full_model()
    config.data = dict(source="shards", folder="frames", pncc_size=512)
    config.reconstruction = "l1"
    # Outside of the torso pixels weigh `outside`; the torso's mask is dilated so far, at 512 pixels a side.
    config.outside, config.mask_dilation = 0.5, 41
    config.lip_size = 512
    each = dict(**frame_terms(image=1.0, lips=0.2, perceptual=0.1), adv=0.001)
    config.loss = {f"{name}_{k}": v for name in ("mv", "ref") for k, v in each.items()}
    config.loss.update(occlusion_2_entropy=0.001, occlusion_l1=0.0, occlusion_2_l1=0.0)
    config.loss.equivariance = 0.0  # of key points that the model finds itself, see configs/ablations.py
    config.background = "inpainted"  # raw: the source as it is
    config.ref_every = 4
    config.frozen_as_in_training = False
    config.perceptual = perceptual("vgg")
    config.adversary = dict(**discriminator(FULL_WIDTHS), start=40_000, lead=10_000)  # start -1: no adversary
    config.pace = 1  # so many steps of the schedule are one of ours
    config.frozen = ()  # regexes of parameters that are never trained, beside all but the super-resolution's
    config.rate_factors = dict(superres=1.0, discriminator=1.0)
    config.learning_rate = 1e-5
    config.beta1, config.beta2 = 0.0, 0.99
    config.average_decay = 0.999
    config.batch_size, config.steps = 8, 100_000
    config.log_every, config.checkpoint_every, config.preview_every = 50, 2_000, 2_000
    config.evaluate_every, config.held_out_batches = 2_000, 10
    if mode == "smoke":
        config.model = dict(**{**tiny_model(), "superres_fields": tiny_superres()}, adapter_fields=tiny_adapter())
        config.data.update(source="people", pncc_size=64)
        config.lip_size = 32
        config.perceptual.kind = "none"
        config.adversary.update(
            fields=dict(widths=(8, 8, 12, 12, 16), mapping_depth=2, mapping_width=16), start=30_000
        )  # fmt: skip
        config.pace = 200
        config.learning_rate = 2e-3
        config.average_decay = 0.9
        config.batch_size, config.steps = 2, 200
        config.log_every, config.checkpoint_every, config.preview_every = 20, 100, 100
        config.evaluate_every, config.held_out_batches = 50, 4
    elif mode != "full":
        raise ValueError(f"mode {mode!r}: choose full or smoke")
    return config
