"""Official names of the super-resolution: of the head (`SuperresolutionHybrid8XDC`) and fused (`..._Warp`)."""

import dataclasses

from r3p.convert import Rule
from r3p.names import torso
from r3p.names.segformer import conv


def block(theirs: str, ours: str, constant_noise: bool = False) -> list[Rule]:
    """One synthesis block; `theirs` has as many groups as `ours` refers to."""
    group = rf"\{theirs.count('(') + 1}"
    rules = []
    for layer, name in ((r"(conv\d)", group), ("torgb", "rgb")):
        rules += conv(rf"{theirs}\.{layer}\.affine", f"{ours}/{name}/affine", "linear")
        rules += conv(rf"{theirs}\.{layer}", f"{ours}/{name}")
    if constant_noise:
        rules += [
            Rule(rf"{theirs}\.(conv\d)\.noise_strength", f"params/{ours}/{group}/noise_strength"),
            Rule(rf"{theirs}\.(conv\d)\.noise_const", f"constants/{ours}/{group}/noise"),
        ]
    # The filter is a constant of the code; without `constant_noise` the network has none.
    return [*rules, Rule(rf"{theirs}\.(conv\d\.)?(resample_filter|noise_strength|noise_const)", None)]


HEAD = [*block("block0", "block0"), *block("block1", "block1")]

# Of `SuperResolution(noise="constant")`.
HEAD_NOISY = [*block("block0", "block0", constant_noise=True), *block("block1", "block1", constant_noise=True)]


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
    *conv(r"torso_encoder\.0", "torso_encoder"),
    *conv(r"bg_encoder\.0", "background_encoder/conv0"),
    *conv(r"bg_encoder\.2", "background_encoder/conv1"),
    *conv(r"bg_encoder\.4", "background_encoder/conv2"),
    *conv(r"fuse_fg_bg_convs\.0", "person_background"),
    *conv(r"fuse_fg_bg_convs\.2", "person_background_mix/conv0"),
    *conv(r"fuse_fg_bg_convs\.4", "person_background_mix/conv1"),
    *conv(r"fuse_head_torso_convs\.0", "head_torso"),
    *conv(r"fuse_head_torso_convs\.2", "head_torso_mix/conv0"),
    *block("head_torso_block", "head_torso_block"),
]
# v1, v2 and `concat`: the alpha predictor in the checkpoint of a v2 model has no use.
RULES = [*_FUSED, Rule(r"head_torso_alpha_predictor\..*", None)]
# v3 uses it.
RULES_V3 = [
    *_FUSED,
    *conv(r"head_torso_alpha_predictor\.0", "alpha_predictor/conv0"),
    *conv(r"head_torso_alpha_predictor\.2", "alpha_predictor/conv1"),
    *conv(r"head_torso_alpha_predictor\.4", "alpha_predictor/conv2"),
]
