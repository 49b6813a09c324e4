"""Names of SyncNet v2 (`syncnet_v2.model`): numbers count activations and poolings, too."""

from r3p.names.segformer import batch_norm, conv

_FIRSTS = (0, 4, 8, 11, 14, 18)
RULES = [
    rule
    for theirs, top, ours, kind in (
        ("netcnnaud", "netfcaud", "sound", "conv2d"),
        ("netcnnlip", "netfclip", "lips", "conv3d"),
    )
    for rule in (
        *(
            r
            for k, number in enumerate(_FIRSTS)
            for r in (
                *conv(rf"{theirs}\.{number}", f"{ours}/layer{k}_conv", kind),
                *batch_norm(rf"{theirs}\.{number + 1}", f"{ours}/layer{k}_norm"),
            )
        ),
        *conv(rf"{top}\.0", f"{ours}/top/first", "linear"),
        *batch_norm(rf"{top}\.1", f"{ours}/top/norm"),
        *conv(rf"{top}\.3", f"{ours}/top/last", "linear"),
    )
]
