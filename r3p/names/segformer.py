"""Official names of the SegFormer blocks, encoder, head and image-to-plane network."""

import dataclasses
import re

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


def nest(rules: list[Rule], prefix: str, module: str) -> list[Rule]:
    """Rules of a network for where it is a part of another: names begin with `prefix`, paths go through `module`."""

    def inside(path: str | None) -> str | None:
        return None if path is None else path.replace("/", f"/{module}/", 1)

    return [dataclasses.replace(r, pattern=re.escape(prefix) + r.pattern, path=inside(r.path)) for r in rules]


def _planes() -> list[Rule]:
    rules: list[Rule] = []
    for i in range(4):
        rules += patch_embed(rf"mix_vit\.patch_embed{i + 1}", f"encoder/embed{i}")
        rules += block(rf"mix_vit\.block{i + 1}\.(\d+)", rf"encoder/block{i}_\1")
        rules += layer_norm(rf"mix_vit\.norm{i + 1}", f"encoder/norm{i}")
        linear = rf"fuse_head\.linear_c{i + 1}\.proj"
        rules += [
            Rule(rf"{linear}\.weight", f"params/head/stage{i}_kernel", "linear"),
            Rule(rf"{linear}\.bias", f"params/head/stage{i}_bias"),
        ]
    rules.append(Rule(r"fuse_head\.linear_fuse\.conv\.weight", "params/head/fuse_kernel", "conv2d"))
    rules += batch_norm(r"fuse_head\.linear_fuse\.bn", "head/norm")
    for i, name in enumerate((0, 2, 4)):
        rules += conv(rf"to_plane_cnn\.{name}", f"conv{i}")
    return [*rules, *conv(r"to_plane_cnn\.7", "out")]


RULES = _planes()
