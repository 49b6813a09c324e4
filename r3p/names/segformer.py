"""Official names of the SegFormer blocks, encoder, head and image-to-plane network."""

from r3p.convert import Rule


def conv(name: str, path: str, kind: str = "conv2d", bias: bool = True) -> list[Rule]:
    """Rules of one convolution or linear layer: `name` a pattern without the ending, `path` under `params`."""
    rules = [Rule(rf"{name}\.weight", rf"params/{path}/kernel", kind)]
    return [*rules, Rule(rf"{name}\.bias", rf"params/{path}/bias")] if bias else rules


def layer_norm(name: str, path: str) -> list[Rule]:
    return [Rule(rf"{name}\.weight", rf"params/{path}/scale"), Rule(rf"{name}\.bias", rf"params/{path}/bias")]


def batch_norm(name: str, path: str) -> list[Rule]:
    return [
        *layer_norm(name, path),
        Rule(rf"{name}\.running_mean", rf"batch_stats/{path}/mean"),
        Rule(rf"{name}\.running_var", rf"batch_stats/{path}/var"),
        Rule(rf"{name}\.num_batches_tracked", None),
    ]


def block(name: str, path: str) -> list[Rule]:
    return [
        *layer_norm(rf"{name}\.norm1", f"{path}/norm1"),
        *layer_norm(rf"{name}\.norm2", f"{path}/norm2"),
        *conv(rf"{name}\.attn\.q", f"{path}/attention/q", "linear"),
        *conv(rf"{name}\.attn\.kv", f"{path}/attention/kv", "linear"),
        *conv(rf"{name}\.attn\.proj", f"{path}/attention/out", "linear"),
        *conv(rf"{name}\.attn\.sr", f"{path}/attention/reduce"),
        *layer_norm(rf"{name}\.attn\.norm", f"{path}/attention/reduce_norm"),
        *conv(rf"{name}\.mlp\.fc1", f"{path}/mlp/up", "linear"),
        *conv(rf"{name}\.mlp\.fc2", f"{path}/mlp/down", "linear"),
        Rule(rf"{name}\.mlp\.dwconv\.dwconv\.weight", rf"params/{path}/mlp/mix_kernel", "conv2d"),
        Rule(rf"{name}\.mlp\.dwconv\.dwconv\.bias", rf"params/{path}/mlp/mix_bias"),
    ]


def patch_embed(name: str, path: str) -> list[Rule]:
    return [*conv(rf"{name}\.proj", f"{path}/conv"), *layer_norm(rf"{name}\.norm", f"{path}/norm")]


def planes(prefix: str = "", path: str = "") -> list[Rule]:
    """Rules of `SegFormerPlanes`; `prefix` ends in an escaped dot, `path` in a slash."""
    rules: list[Rule] = []
    for i in range(4):
        rules += patch_embed(rf"{prefix}mix_vit\.patch_embed{i + 1}", f"{path}encoder/embed{i}")
        rules += block(rf"{prefix}mix_vit\.block{i + 1}\.(\d+)", rf"{path}encoder/block{i}_\1")
        rules += layer_norm(rf"{prefix}mix_vit\.norm{i + 1}", f"{path}encoder/norm{i}")
        linear = rf"{prefix}fuse_head\.linear_c{i + 1}\.proj"
        rules += [
            Rule(rf"{linear}\.weight", f"params/{path}head/stage{i}_kernel", "linear"),
            Rule(rf"{linear}\.bias", f"params/{path}head/stage{i}_bias"),
        ]
    rules.append(Rule(rf"{prefix}fuse_head\.linear_fuse\.conv\.weight", f"params/{path}head/fuse_kernel", "conv2d"))
    rules += batch_norm(rf"{prefix}fuse_head\.linear_fuse\.bn", f"{path}head/norm")
    for i, name in enumerate((0, 2, 4)):
        rules += conv(rf"{prefix}to_plane_cnn\.{name}", f"{path}conv{i}")
    return [*rules, *conv(rf"{prefix}to_plane_cnn\.7", f"{path}out")]


RULES = planes()
