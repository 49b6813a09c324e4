"""Image-to-plane pre-training.

`full`: the paper's size. EG3D teaches; its weights and its discriminator's come from NVIDIA's published generator:

    r3p convert --from ffhqrebalanced512-128.pkl --network eg3d --to eg3d/
    r3p convert --from ffhqrebalanced512-128.pkl --network discriminator --to eg3d_d/
    r3p convert --from vgg19-dcbb9e9d.pth --to vgg19/ ; r3p convert --from vgg_face_dag.pth --to vggface/
    python -m r3p.train --config configs/img2plane.py:full --workdir ~/r3p_runs/img2plane \
        --set data.eg3d=eg3d --set discriminator=eg3d_d --set perceptual.vgg19=vgg19 --set perceptual.vggface=vggface

The original ran it on 8 GPUs with one example each and stopped by hand; `steps` follows its rates, which are at their
floor from 225,000 steps on. `batch_size` is of all devices together and wants a multiple of two. Memory: one example a
chip is planned to take 10 GiB of a TPU v5e's 15.75, of which the train state is 1.9 (`r3p plan`, README).

`smoke`: a tiny model and synthetic people on the same path, minutes on two cores:

    python -m r3p.train --config configs/img2plane.py:smoke --workdir ~/r3p_runs/img2plane_smoke
"""

from ml_collections import ConfigDict

from configs import common


def tiny_model() -> dict:
    """Fields of `r3p.models.portrait.Portrait`: 64^2 images from 16^2 rays, 0.1 M parameters; for smoke runs."""
    return dict(
        source_size=64,
        img2plane_fields=dict(
            channels=8,
            resnet=dict(widths=(8, 12, 16, 16), blocks=(1, 1, 1, 1)),
            pooling=dict(width=16, rates=(1, 2, 3), dropout=0.0),
            low=dict(width=32, blocks=1, heads=2, convs=(16, 16), features=12),
            high=dict(stem=8, width=12, convs=1),
            fusion=dict(before=(16,), width=32, heads=2, after=(16,)),
        ),
        decoder_fields=dict(hidden=24, features=12),
        superres_fields=dict(widths=(16, 8), raw_resolution=16, style_width=16),
        coarse=12,
        fine=6,
        box=(1.0, 1.0, 0.8),
        shared_limits=False,
        chunk=256,
        dtype="float32",
    )


def full_model() -> dict:
    """Fields of the released image-to-plane model, as the defaults of `Portrait` have them; 89.0 M parameters."""
    return dict(shared_limits=False, dtype="bfloat16")


def discriminator(widths: tuple[int, ...]) -> dict:
    """Settings of `r3p.stages.adversary.Adversary` but its steps; images of 4 * 2 ** (len(widths) - 1) pixels."""
    return dict(fields=dict(widths=widths), penalty=5.0, penalty_every=16)


FULL_WIDTHS = (64, 128, 256, 512, 512, 512, 512, 512)


def perceptual(kind: str) -> dict:
    """Settings of `r3p.stages.terms.Perception`."""
    return dict(kind=kind, weights="", vgg19="", vggface="", size=512, signed=False)


def get_config(mode: str = "full") -> ConfigDict:
    """`full`: the paper's values. `smoke`: the same path in minutes."""
    config = common.base("img2plane")
    config.start = ""  # a weight file, a folder of `r3p convert`, or the workdir of a run
    config.start_from_teacher = True  # decoder and super-resolution begin as the teacher's
    config.discriminator = ""  # a folder of `r3p convert`; "" = fresh
    config.model = full_model()
    config.data = dict(teacher="eg3d", eg3d="", truncation=0.7, cameras="")
    config.reconstruction = "l1"
    config.loss = dict(
        mv_l1=1.0, mv_raw_l1=1.0, mv_lpips=0.1, mv_raw_lpips=0.1, mv_adv=0.025,
        ref_l1=1.0, ref_raw_l1=1.0, ref_lpips=0.1, ref_raw_lpips=0.1, ref_adv=0.1,
        density_l1=0.25,
    )  # fmt: skip
    config.perceptual = perceptual("vgg")
    config.adversary = dict(**discriminator(FULL_WIDTHS), start=30_000, lead=30_000)  # start -1: no adversary
    config.ref_every, config.ref_half, config.ref_always = 5, 30_000, 35_000
    config.rescale_planes = 0.5  # least share of the planes' side that they are shrunk to; 1 = never
    config.density_every, config.density_points, config.density_distance = 4, 1000, 0.005
    # Steps of the schedule: `pace` of them are one of ours.
    config.pace = 1
    config.decoder_start, config.superres_start = 2_000, 30_000
    config.frozen = ()  # regexes of parameters that are never trained
    config.rate_factors = dict(img2plane=1.0, decoder=1.0, superres=1.0, discriminator=1.0)
    config.learning_rate = 1e-4
    config.beta1, config.beta2 = 0.0, 0.99
    config.average_decay = 0.999
    config.batch_size, config.steps = 8, 300_000
    config.log_every, config.checkpoint_every, config.preview_every = 50, 2_000, 2_000
    config.evaluate_every, config.held_out_batches = 2_000, 10
    if mode == "smoke":
        config.model = tiny_model()
        config.data.teacher = "people"
        config.perceptual.kind = "none"
        config.adversary.update(fields=dict(widths=(8, 8, 12, 12, 16), mapping_depth=2, mapping_width=16))
        config.density_points = 64
        config.pace = 200
        config.decoder_start, config.superres_start = 200, 400
        config.learning_rate = 2e-3
        config.rate_factors.update(decoder=4.0, superres=4.0)
        config.average_decay = 0.9
        config.batch_size, config.steps = 2, 200
        config.log_every, config.checkpoint_every, config.preview_every = 20, 100, 100
        config.evaluate_every, config.held_out_batches = 50, 4
    elif mode != "full":
        raise ValueError(f"mode {mode!r}: choose full or smoke")
    return config
