"""The head stage: motion adapter from scratch, image-to-plane, decoder and super-resolution fine-tuned.

`full`: the paper's size, from a run of image-to-plane:

    python -m r3p.train --config configs/motion2plane.py:full --workdir ~/r3p_runs/head \
        --set start=~/r3p_runs/img2plane --set data.source=shards --set data.folder=~/r3p_data/frames \
        --set perceptual.vgg19=vgg19 --set perceptual.vggface=vggface

The original ran it on 8 GPUs with one example each: 250,000 steps, of which the last 50,000 against the discriminator.
`batch_size` is of all devices together and wants a multiple of two. Memory: one example a chip is planned to take at
most 13.8 GiB of a TPU v5e's 15.75, of which the train state is 1.9 (`r3p plan`, README).

`smoke`: a tiny model and synthetic people on the same path, minutes on two cores:

    python -m r3p.train --config configs/motion2plane.py:smoke --workdir ~/r3p_runs/head_smoke
"""

from ml_collections import ConfigDict

from configs import common
from configs.img2plane import FULL_WIDTHS, discriminator, full_model, perceptual, tiny_model


def tiny_adapter() -> dict:
    """Fields of `r3p.models.motion_adapter.MotionAdapter` beside `tiny_model`: PNCC of 64^2, planes of 32^2."""
    return dict(
        channels=8,
        encoder=dict(depths=(1, 1), widths=(12, 16), heads=(1, 2), reductions=(2, 1), stride=2, drop_path=0.0),
        width=16,
        upsample=1,
        dropout=0.0,
    )


def frame_terms(image: float, lips: float, perceptual: float) -> dict:
    """Weights of a frame's reconstruction."""
    return dict(l1=image, lpips=perceptual * image, lip_l1=lips, lip_lpips=perceptual * lips)


def get_config(mode: str = "full") -> ConfigDict:
    """`full`: the paper's values. `smoke`: the same path in minutes."""
    config = common.base("motion2plane")
    config.start = ""  # a weight file, a folder of `r3p convert`, or the workdir of a run
    config.discriminator = ""  # a folder of `r3p convert`; "" = that of `start`, or fresh
    config.model = full_model()
    config.data = dict(source="shards", folder="frames", pncc_size=512)
    config.reconstruction = "l1"
    # Outside of the head pixels weigh `outside`; the head's mask is dilated so far, at 512 pixels a side.
    config.outside, config.mask_dilation, config.mask_defect = 0.2, 41, False
    config.lip_size = 512
    each = dict(
        **frame_terms(image=1.0, lips=0.5, perceptual=0.1), raw_l1=1.0, raw_lpips=0.1, weight_l1=0.1,
        weight_entropy=0.01, adv=0.002,
    )  # fmt: skip
    config.loss = {f"{name}_{k}": v for name in ("mv", "ref") for k, v in each.items()}
    config.loss.update(density_l1=0.25, laplacian=1.0)
    config.ref_every, config.regularise_every = 16, 4
    config.density_points, config.density_distance = 1000, 0.005
    # Terms on the adapter whose weights tune themselves: they grow while a term is over its goal, a goal of 0 is off.
    config.tuning = dict(first=0.001, rate=0.01)
    config.blink = dict(goal=0.3, top=2.0)
    config.perturb = dict(kind="noise", goal=0.0, top=0.2)
    config.perceptual = perceptual("vgg")
    config.adversary = dict(**discriminator(FULL_WIDTHS), start=200_000, lead=10_000)  # start -1: no adversary
    # From the adversary's start the super-resolution alone is trained, without the large target image's own terms.
    config.two_stage, config.decoder_always, config.large_terms_early = True, False, True
    # Steps of the schedule: `pace` of them are one of ours.
    config.pace = 1
    config.decoder_start, config.superres_start = 6_000, 30_000
    config.img2plane_factor, config.img2plane_stop = 1.0, 70_000
    config.frozen = ()  # regexes of parameters that are never trained
    config.rate_factors = dict(img2plane=1.0, adapter=1.0, decoder=1.0, superres=1.0, discriminator=1.0)
    config.learning_rate = 1e-4
    config.beta1, config.beta2 = 0.0, 0.99
    config.average_decay = 0.999
    config.batch_size, config.steps = 8, 250_000
    config.log_every, config.checkpoint_every, config.preview_every = 50, 2_000, 2_000
    config.evaluate_every, config.held_out_batches = 2_000, 10
    if mode == "smoke":
        config.model = dict(**tiny_model(), adapter_fields=tiny_adapter())
        config.data.update(source="people", pncc_size=64)
        config.lip_size = 32
        config.perceptual.kind = "none"
        config.adversary.update(
            fields=dict(widths=(8, 8, 12, 12, 16), mapping_depth=2, mapping_width=16), start=30_000
        )  # fmt: skip
        config.density_points = 64
        config.pace = 200
        config.decoder_start, config.superres_start, config.img2plane_stop = 200, 400, 1_000_000
        config.img2plane_factor = 2.0
        config.learning_rate = 2e-3
        config.rate_factors.update(decoder=4.0, superres=4.0)
        config.average_decay = 0.9
        config.batch_size, config.steps = 2, 200
        config.log_every, config.checkpoint_every, config.preview_every = 20, 100, 100
        config.evaluate_every, config.held_out_batches = 50, 4
    elif mode != "full":
        raise ValueError(f"mode {mode!r}: choose full or smoke")
    return config
