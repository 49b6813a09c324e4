"""Official names of the perceptual loss (`PerceptualLoss`) and of its two networks as they were published.

In the loss both count their layers as torchvision does; so does torchvision's VGG19 (`features`), while VGGFace is
published with the names of its paper's layers (`conv1_1` and so on).
"""

from r3p.convert import Rule
from r3p.models.perceptual import VGG16, VGG19
from r3p.names.segformer import conv

# Convolutions of the whole networks; those that the loss never reaches are dropped.
_WHOLE = {"vgg19": (2, 2, 4, 4, 4), "vggface": (2, 2, 3, 3, 3)}
_USED = {"vgg19": VGG19, "vggface": VGG16}


def _numbered(name: str, theirs: str, ours: str) -> list[Rule]:
    rules, number = [], 0
    for i, (whole, kept) in enumerate(zip(_WHOLE[name], _USED[name], strict=True)):
        for j in range(whole):
            rules += _layer(rf"{theirs}\.{number}", f"{ours}conv{i}_{j}", j < kept)
            number += 2  # a ReLU follows
        number += 1  # so does the pooling
    return rules


def _layer(theirs: str, ours: str, used: bool) -> list[Rule]:
    return conv(theirs, ours) if used else [Rule(rf"{theirs}\.(weight|bias)", None)]


RULES = [
    *_numbered("vgg19", r"vgg19\.network", "vgg19/"),
    *_numbered("vggface", r"vggface\.network", "vggface/"),
]
VGG19_RULES = [*_numbered("vgg19", "features", ""), Rule(r"classifier\.\d+\.(weight|bias)", None)]
VGGFACE_RULES = [
    *(
        rule
        for i, (whole, kept) in enumerate(zip(_WHOLE["vggface"], _USED["vggface"], strict=True))
        for j in range(whole)
        for rule in _layer(f"conv{i + 1}_{j + 1}", f"conv{i}_{j}", j < kept)
    ),
    Rule(r"fc\d\.(weight|bias)", None),
]
