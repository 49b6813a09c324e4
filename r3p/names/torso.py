"""Official names of the torso model (`WarpBasedTorsoModelMediaPipe`), v1 and v2."""

from r3p.convert import Rule


def _conv(theirs: str, ours: str, kind: str = "conv2d", spectral: bool = False) -> list[Rule]:
    rules = [Rule(rf"{theirs}\.bias", f"params/{ours}/bias")]
    if not spectral:
        return [*rules, Rule(rf"{theirs}\.weight", f"params/{ours}/kernel", kind)]
    return [
        *rules,
        Rule(rf"{theirs}\.weight_orig", f"params/{ours}/kernel", kind),
        Rule(rf"{theirs}\.weight_u", f"batch_stats/{ours}/u"),
        Rule(rf"{theirs}\.weight_v", f"batch_stats/{ours}/v"),
    ]


def _norm(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(rf"{theirs}\.weight", f"params/{ours}/scale"),
        Rule(rf"{theirs}\.bias", f"params/{ours}/bias"),
        Rule(rf"{theirs}\.running_mean", f"batch_stats/{ours}/mean"),
        Rule(rf"{theirs}\.running_var", f"batch_stats/{ours}/var"),
        Rule(rf"{theirs}\.num_batches_tracked", None),
    ]


def _block(theirs: str, ours: str, kind: str = "conv2d", spectral: bool = False) -> list[Rule]:
    conv = _conv(rf"{theirs}\.layers\.0", f"{ours}/conv", kind, spectral)
    return conv + _norm(rf"{theirs}\.layers\.1", f"{ours}/norm")


def _res(theirs: str, ours: str, inner: str, kind: str = "conv2d", spectral: bool = False) -> list[Rule]:
    """`inner` refers to the group that holds the number of the block within the residual unit."""
    theirs, ours = rf"{theirs}\.layers\.(\d+)", f"{ours}/block{inner}"
    norm = _norm(rf"{theirs}\.layers\.0", f"{ours}/norm")
    return norm + _conv(rf"{theirs}\.layers\.2", f"{ours}/conv", kind, spectral)


_MOTION = r"motion_field_estimator"
RULES = [
    *_block(r"appearance_extractor\.in_conv", "appearance/stem"),
    *_block(r"appearance_extractor\.down\.(\d+)\.layers\.0", r"appearance/down\1"),
    *_conv(r"appearance_extractor\.mid_conv", "appearance/mix"),
    *_res(r"appearance_extractor\.res\.(\d+)", r"appearance/res\1", r"\2", "conv3d"),
    *_conv(rf"{_MOTION}\.compress", "compress", "conv3d"),
    *_block(rf"{_MOTION}\.down\.(\d+)\.layers\.0", r"motion/hourglass/down\1", "conv3d"),
    *_block(rf"{_MOTION}\.up\.(\d+)\.layers\.1", r"motion/hourglass/up\1", "conv3d"),
    *_block(rf"{_MOTION}\.tgt_head_encoder\.0", "motion/head_encoder/stem"),
    # Their residual blocks are the entries 1, 2 and 3 of one list.
    *(
        rule
        for i in range(1, 10)
        for rule in _res(rf"{_MOTION}\.tgt_head_encoder\.{i}", f"motion/head_encoder/res{i - 1}", r"\1")
    ),
    *_conv(rf"{_MOTION}\.tgt_head_fuser", "motion/head_fuser", "conv3d"),
    *_conv(rf"{_MOTION}\.mask_conv", "motion/mask", "conv3d"),
    *_conv(rf"{_MOTION}\.occlusion_conv", "motion/occlusion"),
    *_conv(rf"{_MOTION}\.occlusion_conv2", "motion/occlusion_2"),
    *_block(r"deform_based_generator\.in_conv", "generator/stem", spectral=True),
    *_conv(r"deform_based_generator\.mid_conv", "generator/mix"),
    *_res(r"deform_based_generator\.res\.(\d+)", r"generator/res\1", r"\2", spectral=True),
    *_block(r"deform_based_generator\.up\.(\d+)\.layers\.1", r"generator/up\1", spectral=True),
    *_conv(r"deform_based_generator\.out_conv", "generator/rgb"),
    *_conv(r"occlusion_2_predictor\.0", "occlusion_refiner/conv0"),
    *_conv(r"occlusion_2_predictor\.2", "occlusion_refiner/conv1"),
    *_conv(r"occlusion_2_predictor\.4", "occlusion_refiner/out"),
]
