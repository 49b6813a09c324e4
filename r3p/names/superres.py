"""Official names of the super-resolution: of the head (`SuperresolutionHybrid8XDC`) and fused (`..._Warp`)."""

import dataclasses

from r3p.convert import Rule
from r3p.names import torso


def _conv(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(rf"{theirs}\.weight", f"params/{ours}/kernel", "conv2d"),
        Rule(rf"{theirs}\.bias", f"params/{ours}/bias"),
    ]


def _block(name: str) -> list[Rule]:
    rules = []
    for theirs, ours in ((r"(conv\d)", r"\1"), ("torgb", "rgb")):
        theirs, ours = rf"{name}\.{theirs}", f"{name}/{ours}"
        rules += [
            Rule(rf"{theirs}\.affine\.weight", f"params/{ours}/affine/kernel", "linear"),
            Rule(rf"{theirs}\.affine\.bias", f"params/{ours}/affine/bias"),
            *_conv(theirs, ours),
        ]
    # The filter is a constant of the code; noise is off in every released model.
    return [*rules, Rule(rf"{name}\.(conv\d\.)?(resample_filter|noise_strength|noise_const)", None)]


HEAD = [*_block("block0"), *_block("block1")]

# For `SuperResolution(constant_noise=True)`: these come before `HEAD`.
CONSTANT_NOISE = [
    Rule(r"(block\d)\.(conv\d)\.noise_strength", r"params/\1/\2/noise_strength"),
    Rule(r"(block\d)\.(conv\d)\.noise_const", r"constants/\1/\2/noise"),
]


def _torso() -> list[Rule]:
    def nested(path: str | None) -> str | None:
        return None if path is None else path.replace("/", "/torso/", 1)

    return [
        dataclasses.replace(rule, pattern=rf"torso_model\.{rule.pattern}", path=nested(rule.path))
        for rule in torso.RULES
    ]


_FUSED = [
    *HEAD,
    *_torso(),
    *_conv(r"torso_encoder\.0", "torso_encoder"),
    *_conv(r"bg_encoder\.0", "background_encoder/conv0"),
    *_conv(r"bg_encoder\.2", "background_encoder/conv1"),
    *_conv(r"bg_encoder\.4", "background_encoder/conv2"),
    *_conv(r"fuse_fg_bg_convs\.0", "person_background"),
    *_conv(r"fuse_fg_bg_convs\.2", "person_background_mix/conv0"),
    *_conv(r"fuse_fg_bg_convs\.4", "person_background_mix/conv1"),
    *_conv(r"fuse_head_torso_convs\.0", "head_torso"),
    *_conv(r"fuse_head_torso_convs\.2", "head_torso_mix/conv0"),
    *_block("head_torso_block"),
]
# v1, v2 and `concat`: the alpha predictor in the checkpoint of a v2 model has no use.
RULES = [*_FUSED, Rule(r"head_torso_alpha_predictor\..*", None)]
# v3 uses it.
RULES_V3 = [
    *_FUSED,
    *_conv(r"head_torso_alpha_predictor\.0", "alpha_predictor/conv0"),
    *_conv(r"head_torso_alpha_predictor\.2", "alpha_predictor/conv1"),
    *_conv(r"head_torso_alpha_predictor\.4", "alpha_predictor/conv2"),
]
