"""Official names of the composite image-to-plane network."""

from r3p.convert import Rule
from r3p.names.segformer import batch_norm, block, conv, patch_embed


def _rules() -> list[Rule]:
    resnet, ours = r"low_reso_encoder\.encoder", "low_encoder/resnet"
    pooling, pooled = r"low_reso_encoder\.decoder\.0", "low_encoder/pooling"
    vit, high = r"low_reso_vit", r"high_reso_encoder"
    fusion = r"triplane_predictor_vit"
    rules = [
        *conv(rf"{resnet}\.conv1", f"{ours}/stem/conv", bias=False),
        *batch_norm(rf"{resnet}\.bn1", f"{ours}/stem_norm"),
    ]
    for i in range(4):
        name, at = rf"{resnet}\.layer{i + 1}\.(\d+)", rf"{ours}/block{i}_\1"
        for j in range(2):
            rules += conv(rf"{name}\.conv{j + 1}", f"{at}/conv{j}/conv", bias=False)
            rules += batch_norm(rf"{name}\.bn{j + 1}", f"{at}/norm{j}")
        rules += conv(rf"{name}\.downsample\.0", f"{at}/shortcut/conv", bias=False)
        rules += batch_norm(rf"{name}\.downsample\.1", f"{at}/shortcut_norm")
    for name, at in ((r"convs\.0\.0", "point"), (r"convs\.4\.1", "mean"), (r"project\.0", "project")):
        rules += conv(rf"{pooling}\.{name}", f"{pooled}/{at}/conv", bias=False)
    for i in range(3):
        rules += conv(rf"{pooling}\.convs\.{i + 1}\.0", f"{pooled}/rate{i}/conv", bias=False)
    rules += conv(r"low_reso_encoder\.decoder\.1", "low_encoder/out/conv", bias=False)

    rules += patch_embed(rf"{vit}\.patch_embed", "low_vit/embed")
    for i in range(2):
        rules += conv(rf"{vit}\.conv_after_upsample{i + 1}", f"low_vit/conv{i}/conv")
    rules += conv(rf"{vit}\.final_conv", "low_vit/out/conv")

    rules += conv(rf"{high}\.first", "high_encoder/stem/conv")
    for i in range(4):
        rules += conv(rf"{high}\.conv_layers\.{2 * i}", f"high_encoder/conv{i}/conv")
    rules += conv(rf"{high}\.final", "high_encoder/out/conv")

    for i, count in enumerate(("first", "second", "third")):
        rules += conv(rf"{fusion}\.{count}_conv", f"fusion/before{i}/conv")
        rules += conv(rf"{fusion}\.{count}_conv_after_cat", f"fusion/after{i}/conv")
    rules += patch_embed(rf"{fusion}\.patch_embed", "fusion/embed")
    rules += conv(rf"{fusion}\.final_conv", "fusion/out/conv")
    for i in range(10):  # the official blocks count from 1; "large" has ten
        rules += block(rf"{vit}\.block{i + 1}", f"low_vit/block{i}")
        rules += block(rf"{fusion}\.block{i + 1}", f"fusion/block{i}")
    return [*rules, *conv(r"camera_to_channel", "camera", "linear")]


RULES = _rules()
