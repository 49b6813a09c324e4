"""Every network by shape alone: names, shapes and numbers of parameters of the official state dicts; and back."""

import json
import re

import numpy as np
import parity
import pytest

from r3p.convert import to_official, to_variables, unused_arrays
from r3p.errors import InputError
from r3p.parity.networks import NETWORKS, Network, network

# Parameters of the official network, and how many of them no network here reads, by what they are.
NOISE = {"noise_strength": 4}  # of the super-resolution's noise, which is never added
HEAD = {**NOISE, "lambda_pertube": 2}  # weights of two losses
MIXED = {"noise_strength": 6}  # with a third block, of the fuse modes v2 and v3
ALPHA = {**MIXED, "head_torso_alpha_predictor": 11_585}  # of v3; a v2 model's checkpoint has it too
COUNTS: dict[str, tuple[int, dict[str, int]]] = {
    "a2m_pitch": (11_864_064, {}),
    "a2m_vae": (10_804_928, {"blink_embed": 128}),
    "disc": (31_359_744, {}),
    "eg3d_orig": (30_662_136, NOISE),
    "eg3d_r3d": (30_662_136, NOISE),
    "head_full": (94_692_491, HEAD),
    "hubert_base_small": (58_096, {"masked_spec_embed": 48}),
    "hubert_large": (315_438_720, {"masked_spec_embed": 1024}),
    "hubert_small": (149_008, {"masked_spec_embed": 64}),
    "i2p_full": (88_986_795, NOISE),
    "i2p_full_trigrid_v2": (89_263_660, NOISE),
    "img2plane": (87_332_960, {}),
    "perceptual": (34_739_072, {"network": 11_799_040}),  # layers behind the last one that the loss looks at
    "plane2grid": (55_489, {}),
    "renderer": (4_257, {}),
    "renderer_trigrid": (4_257, {}),
    "secc2plane": (5_705_694, {}),
    "segformer_img2plane_b0": (5_705_664, {}),
    "segformer_img2plane_b3": (46_589_472, {}),
    "sr_head": (1_649_578, NOISE),
    "sr_warp_v1_nofuse": (50_672_924, NOISE),
    "sr_warp_v1_v1": (50_656_540, NOISE),
    "sr_warp_v1_v2": (54_013_026, ALPHA),
    "sr_warp_v1_v3": (54_013_026, MIXED),
    "sr_warp_v2_nofuse": (51_636_257, NOISE),
    "sr_warp_v2_v1": (51_619_873, NOISE),
    "sr_warp_v2_v2": (54_976_359, ALPHA),
    "sr_warp_v2_v3": (54_976_359, MIXED),
    "syncnet": (10_746_144, {}),
    "syncnet_lip": (9_831_712, {}),
    "torso_full": (148_019_272, HEAD | ALPHA),
    "torso_v1": (47_480_114, {}),
    "torso_v2": (48_443_447, {}),
    "torso_v2_rgb": (48_437_175, {}),
}
LARGE = 12_000_000


def of(model: str) -> Network:
    """With the config of the case of the same name, where its network has one."""
    config = None
    if model.startswith("hubert") and model in parity.FOLDER.names():
        config = parity.FOLDER.case(model).meta["config"]
    return network(model, config)


def size(shape) -> int:
    return int(np.prod(shape))


@pytest.mark.parametrize("model", parity.models())
def test_names_shapes_and_counts(model):
    manifest, ours = parity.FOLDER.manifest(model), of(model)
    state = {name: np.broadcast_to(np.float32(0), spec["shape"]) for name, spec in manifest.items()}
    variables = ours.variables(state)  # fails unless names and shapes fit exactly
    official, unread = COUNTS[model]
    parameters = {n: size(s["shape"]) for n, s in manifest.items() if s.get("kind") == "param"}
    assert sum(parameters.values()) == official
    held = sum(size(a.shape) for a in _leaves(variables["params"]))
    assert held == official - sum(unread.values())
    left = {n for n in parameters if dropped(ours, n)}
    for part, count in unread.items():
        assert sum(parameters.pop(n) for n in list(parameters) if n in left and part in n) == count, part
    assert not left & parameters.keys()


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


def dropped(ours: Network, name: str) -> bool:
    return next(rule.path is None for rule in ours.rules if re.fullmatch(rule.pattern, name))


@pytest.mark.parametrize(
    "model",
    [pytest.param(m, marks=pytest.mark.slow) if COUNTS[m][0] > LARGE else m for m in parity.models()],
)
def test_drawn_weights_come_back_bit_for_bit(model):
    state, rules = parity.official_weights(model), of(model).rules
    listed = {name: (a.shape, a.dtype) for name, a in state.items()}
    back = to_official(to_variables(state, rules), rules, listed, unused_arrays(state, rules))
    assert list(back) == list(state)
    for name, value in state.items():
        assert back[name].dtype == value.dtype and back[name].shape == value.shape, name
        assert back[name].tobytes() == value.tobytes(), name


def test_every_network_has_its_manifest():
    assert NETWORKS.keys() <= COUNTS.keys() and set(parity.models()) <= COUNTS.keys()
    with pytest.raises(InputError, match="'eg4d' has no counterpart here"):
        network("eg4d")


def test_a_strange_manifest_does_not_fit():
    manifest = json.loads(json.dumps(parity.FOLDER.manifest("renderer")))
    state = {name: np.zeros(spec["shape"], np.float32) for name, spec in manifest.items()}
    with pytest.raises(InputError, match=r"decoder\.net\.9\.weight"):
        NETWORKS["renderer"].variables({**state, "decoder.net.9.weight": np.zeros(2)})
    state.pop("decoder.net.0.bias")
    with pytest.raises(InputError, match=r"missing.*hidden_layer/bias"):
        NETWORKS["renderer"].variables(state)
