"""Official names of the perceptual loss (`PerceptualLoss`): VGG19 and VGGFace as torchvision numbers their layers."""

from r3p.convert import Rule
from r3p.models.perceptual import VGG16, VGG19
from r3p.names.segformer import conv

# Convolutions of the whole networks; those that the loss never reaches are dropped.
_WHOLE = {"vgg19": (2, 2, 4, 4, 4), "vggface": (2, 2, 3, 3, 3)}


def _network(name: str, used: tuple[int, ...]) -> list[Rule]:
    rules, number = [], 0
    for i, (whole, kept) in enumerate(zip(_WHOLE[name], used, strict=True)):
        for j in range(whole):
            pattern = rf"{name}\.network\.{number}"
            rules += conv(pattern, f"{name}/conv{i}_{j}") if j < kept else [Rule(rf"{pattern}\.(weight|bias)", None)]
            number += 2  # a ReLU follows
        number += 1  # so does the pooling
    return rules


RULES = [*_network("vgg19", VGG19), *_network("vggface", VGG16)]
