"""Inception, ArcFace, Deep3DFaceRecon and SyncNet v2: their published sizes, and `r3p convert` of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import drawn, quick_jit
from test_exchange_training import equal, there_and_back

from r3p import recognise
from r3p.convert import to_official, to_variables
from r3p.models import arcface as arcface_model
from r3p.models.arcface import DEPTHS, ArcFace, PReLU
from r3p.models.deep3d import Deep3D
from r3p.models.inception import Block, Inception
from r3p.models.lipsync import Lips, LipSync, Sound
from r3p.names import arcface, deep3d, inception, lipsync

FACE, ALIGNED = jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32), jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
SMALL = {"sound_widths": (4, 4, 4, 4, 4, 8), "lip_widths": (4, 4, 4, 4, 4, 8), "width": 8, "embedding": 16}


def _shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)


def _parameters(module, *inputs):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(_shapes(module, *inputs)["params"]))


def _output(module, *inputs):
    variables = _shapes(module, *inputs)
    return jax.eval_shape(module.apply, variables, *inputs)


def test_published_sizes():
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    # torchvision's count of all parameters, less the classifier's.
    assert _parameters(Inception(), image) == 23_834_568 - 2_049_000
    assert _output(Inception(), image).shape == (2, 2048)
    assert _parameters(Deep3D(), ALIGNED) == 25_557_032 - 2_049_000 + 257 * 2049
    assert _output(Deep3D(), ALIGNED).shape == (2, 257)
    # Of insightface's zoo: 43.59 and 65.15 million.
    assert round(_parameters(ArcFace(), FACE) / 1e6, 2) == 43.59
    assert round(_parameters(ArcFace(DEPTHS[100]), FACE) / 1e6, 2) == 65.16
    assert _output(ArcFace(), FACE).shape == (2, 512)
    faces = jax.ShapeDtypeStruct((2, 5, 224, 224, 3), jnp.float32)
    sound = jax.ShapeDtypeStruct((2, 13, 20, 1), jnp.float32)
    assert [x.shape for x in _output(LipSync(), faces, sound)] == [(2, 1024)] * 2


def test_shapes_within_inception():
    x = jax.ShapeDtypeStruct((1, 35, 35, 192), jnp.float32)
    widths = {"A": 64 + 64 + 96 + 32, "B": 384 + 96 + 192, "C": 4 * 192, "D": 320 + 192 + 192, "E": 2048}
    for kind, width in widths.items():
        side = 17 if kind in "BD" else 35
        assert _output(Block(kind, 32), x).shape == (1, side, side, width), kind


def test_averages_of_the_fid_network_leave_the_padding_out():
    x = np.ones((1, 4, 4, 3), np.float32)
    for whole, corner in ((False, 1.0), (True, 4 / 9)):
        block = Block("A", 8, divide=8, whole=whole)
        variables = drawn(block, x)
        pool = variables["params"]["branch_pool"]
        pool["conv"]["kernel"] = np.ones_like(pool["conv"]["kernel"]) / 3
        pool["bn"] = {"scale": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)}
        variables["batch_stats"]["branch_pool"]["bn"] = {
            "mean": np.zeros(1, np.float32), "var": np.full(1, 1 - 1e-3, np.float32),
        }  # fmt: skip
        got = np.asarray(quick_jit(block.apply)(variables, x))[0, ..., -1]
        np.testing.assert_allclose([got[0, 0], got[1, 1]], [corner, 1], rtol=1e-6)


def test_prelu_and_the_shortcut_of_a_block():
    x = np.array([[-2.0, 3.0]], np.float32)
    assert PReLU().apply({"params": {"slope": np.array([0.5, 0.1])}}, x).tolist() == [[-1.0, 3.0]]
    block = arcface_model.Block(4)
    x = np.random.default_rng(0).normal(0, 1, (1, 6, 6, 4)).astype(np.float32)
    variables = drawn(block, x)
    variables["params"]["conv2"]["kernel"] *= 0
    norm, stats = variables["params"]["bn3"], variables["batch_stats"]["bn3"]
    rest = norm["bias"] - stats["mean"] * norm["scale"] / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(quick_jit(block.apply)(variables, x), x + rest, rtol=1e-5, atol=1e-6)


def test_syncnets_clips_end_as_one_vector():
    cepstra = jax.ShapeDtypeStruct((3, 13, 20, 1), jnp.float32)
    faces = jax.ShapeDtypeStruct((3, 5, 224, 224, 3), jnp.float32)
    widths = SMALL["lip_widths"]
    # The last convolution leaves one place, so that the dense layer sees as many numbers as it has channels.
    assert _shapes(Sound(widths, 8, 16), cepstra)["params"]["top"]["first"]["kernel"].shape == (8, 8)
    assert _shapes(Lips(widths, 8, 16), faces)["params"]["top"]["first"]["kernel"].shape == (8, 8)


def _classified(state, classes, width):
    rng = np.random.default_rng(7)
    return state | {
        "fc.weight": rng.standard_normal((classes, width), dtype=np.float32),
        "fc.bias": rng.standard_normal(classes, dtype=np.float32),
    }


CASES = {
    "inception": (Inception(divide=16), [(1, 64, 64, 3)], inception.RULES),
    "arcface": (ArcFace((1, 2, 1, 1), 4, (4, 4, 8, 8), 16), [(1, 112, 112, 3)], arcface.RULES),
    "deep3d": (Deep3D((1, 2, 1, 1), 4, (4, 4, 8, 8)), [(1, 64, 64, 3)], deep3d.RULES),
    "lipsync": (LipSync(**SMALL), [(1, 5, 224, 224, 3), (1, 13, 20, 1)], lipsync.RULES),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_go_there_and_back(name, tmp_path):
    module, inputs, rules = CASES[name]
    variables = drawn(module, *(np.zeros(s, np.float32) for s in inputs))
    state = to_official(variables, rules)
    if name == "inception":
        state = _classified(state, 1008, 128)
    prefix = {"deep3d": "net_recon."}.get(name, "")
    restored, back = there_and_back(tmp_path / name, state, name, prefix)
    assert restored == module
    equal(back, to_variables(state, rules))


def test_torchvisions_inception_is_told_apart(tmp_path):
    module = Inception(fid=False, divide=16)
    state = to_official(drawn(module, np.zeros((1, 64, 64, 3), np.float32)), inception.RULES)
    restored, _ = there_and_back(tmp_path / "tv", _classified(state, 1000, 128), "inception")
    assert not restored.fid


def test_faces_are_flattened_as_pytorch_flattens_them():
    kernel = np.arange(2 * 3 * 49, dtype=np.float32).reshape(2, 3 * 49)
    x = np.random.default_rng(1).normal(0, 1, (3, 7, 7)).astype(np.float32)
    tree = to_variables({"fc.weight": kernel, "fc.bias": np.zeros(2, np.float32)}, arcface.RULES)
    ours = x.transpose(1, 2, 0).reshape(-1) @ tree["params"]["fc"]["kernel"]
    np.testing.assert_allclose(ours, kernel @ x.reshape(-1), rtol=1e-5)


def test_rows_are_found_by_their_names():
    names = [kind.name for kind in recognise.KINDS]
    assert len(names) == len(set(names)) and set(CASES) <= set(names)
