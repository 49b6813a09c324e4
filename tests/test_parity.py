"""Every golden case of the official code, and the command that users run them with."""

import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import parity
import pytest

from r3p import cli, detweights
from r3p.parity import suite
from r3p.parity.cases import Comparison, Folder
from r3p.parity.layouts import channels_first, entering, planes_first, tokens

# Those that run in seconds.
FAST = (
    "a2m_infer_t02", "a2m_infer_t10", "a2m_train", "a2m_train_bn", "a2m_vae", "disc_b1", "hubert_base_small",
    "hubert_small", "losses", "plane2grid", "render_grad", "render_missed_rays", "render_points", "secc2plane_bn_train",
    "secc2plane_small", "sr_head", "syncnet", "syncnet_lip",
)  # fmt: skip
CASES = [n for n in parity.FOLDER.names() if n not in suite.LEFT_OUT]


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_matches_official(name):
    case = parity.FOLDER.case(name)
    result = suite.run(case)
    assert not result.problem and result.passed
    assert {c.name for c in result.comparisons} == case.recorded.keys() - {"steps"}
    over = {c.name: f"{c.error:.2e} of {parity.bound(c):.2e}" for c in result.comparisons}
    assert not {n: over[n] for n, c in zip(over, result.comparisons, strict=True) if not c.error <= parity.bound(c)}


def test_every_case_that_is_known_has_a_network():
    assert not suite.RUNNERS.keys() & suite.LEFT_OUT.keys()
    assert set(parity.FOLDER.names()) <= suite.RUNNERS.keys() | suite.LEFT_OUT.keys()


# ------------------------------------------------------------------------------------------------ weights and inputs
def test_drawn_arrays_are_those_of_the_recorder():
    """The first values for the seed that the cases here have, and a case's own check of its inputs."""
    assert detweights.normal("public", "key", (2,)).tolist() == [-1.503413200378418, -2.3646187782287598]
    case = parity.FOLDER.case("sr_head")
    assert not case.strange_inputs()
    assert Folder(parity.CASES).case("sr_head", "other").strange_inputs() == ["rgb", "x"]
    with pytest.raises(ValueError, match="'rainbow' are not known"):
        detweights.inputs({"a": {"kind": "rainbow"}}, "public", "case")


def test_spectral_weights_are_singular_vectors():
    manifest = {
        "w": {"shape": [4, 3, 3], "dtype": "float32", "init": {"mean": 0.0, "std": 1.0}},
        **{
            side: {"shape": [n], "dtype": "float32", "init": {"spectral": {"of": "w", "side": side, "iters": 300}}}
            for side, n in (("u", 4), ("v", 9))
        },
        "c": {"shape": [2, 8], "dtype": "float32", "init": {"mean": 0.0, "std": 2.0, "center": True}},
        "k": {"shape": [2], "dtype": "int64", "buffer": True, "value": [3, 4]},
    }
    w = detweights.weights(manifest, "seed")
    assert list(w) == list(manifest) and w["k"].dtype == np.int64
    largest = np.linalg.svd(w["w"].reshape(4, 9), compute_uv=False)[0]
    assert w["u"] @ w["w"].reshape(4, 9) @ w["v"] == pytest.approx(largest, rel=1e-5)
    np.testing.assert_allclose(w["c"].mean(1), 0, atol=1e-6)


def test_layouts():
    x = np.arange(24).reshape(1, 2, 3, 4)
    assert channels_first(x).shape == (1, 4, 2, 3) and tokens(x).shape == (1, 6, 4)
    grid = np.arange(3 * 2 * 4).reshape(1, 3, 2, 1, 1, 4)  # two depth slices of four channels
    np.testing.assert_array_equal(planes_first(grid)[0, 0, :, 0, 0], [0, 4, 1, 5, 2, 6, 3, 7])


def test_what_enters_a_submodule_is_seen():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="second")(nn.Dense(3, name="first")(x) * 0 + 5)

    with entering("second") as given:
        Two().init(jax.random.key(0), np.ones((1, 4)))
    np.testing.assert_array_equal(given[0], np.full((1, 3), 5))


# ------------------------------------------------------------------------------------------------ the command
def run(*arguments):
    return cli.main(["parity", *map(str, arguments)])


def test_rows_and_figures(tmp_path, capsys):
    figures = tmp_path / "parity.json"
    only = ("--only", "plane2*", "--only", "ops", "--json", figures)
    assert run("--cases", parity.CASES, *only) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("float32, cpu") and "gradients" in out[1]
    assert "left out: primitives" in out[2] and out[3].startswith("plane2grid")
    assert out[-1] == "1 of 1 cases within their bounds, 1 left out"
    written = json.loads(figures.read_text())
    ops, refiner = written["rows"]
    assert ops["passed"] and ops["left_out"] and ops["outputs"] is None
    assert refiner["passed"] and refiner["outputs"] == refiner["arrays"]["y"]["error"] < refiner["bound"] == 1e-5
    assert refiner["seams"] is None and refiner["nearest"] == "y" and refiner["seconds"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["parity.json"]


@pytest.fixture
def other(tmp_path):
    """A folder with a case of another seed, as the recorder would write it: `write(name, **changes of its arrays)`."""
    folder = tmp_path / "golden" / "other"
    folder.mkdir(parents=True)
    (folder.parent / "manifests").mkdir()
    shutil.copy(parity.FOLDER.manifests / "plane2grid.json", folder.parent / "manifests")
    shutil.copy(parity.CASES.parent / "NOISE.json", folder.parent)
    theirs = parity.FOLDER.case("plane2grid")
    meta = json.loads(json.dumps(dict(theirs.meta))) | {"seed": "other"}
    meta["inputs"]["x"]["shape"] = [1, 288, 6, 5]
    meta["outputs"] = {"y": {"shape": [1, 288, 6, 5], "role": "main"}}
    meta.pop("input_check")

    def write(name="plane2grid", change=lambda arrays, meta: None):
        arrays, described = {"y": np.zeros((1, 288, 6, 5), np.float32)}, json.loads(json.dumps(meta))
        np.savez(folder / f"{name}.npz", **arrays, meta=json.dumps(described))
        case = Folder(folder).case(name)
        arrays["y"] = np.asarray(suite.RUNNERS["plane2grid"](case)["y"])
        change(arrays, described)
        np.savez(folder / f"{name}.npz", **arrays, meta=json.dumps(described))
        return folder

    return write


def test_another_seed_and_a_mismatch(other, capsys):
    assert run("--cases", other()) == 0
    # The seed of the case counts, unless another one is asked for.
    assert run("--cases", other(), "--seed", "public") == 1
    assert "FAILED: y" in capsys.readouterr().out

    def disturb(arrays, meta):
        arrays["y"][0, 3] *= 1.01

    assert run("--cases", other(change=disturb)) == 1
    printed = capsys.readouterr()
    assert "FAILED: y" in printed.out and "0 of 1 cases within" in printed.out
    assert "not at parity: plane2grid" in printed.err

    def spoil(arrays, meta):
        arrays["y"][0, 0, 0, 0] = np.nan

    assert run("--cases", other(change=spoil)) == 1


def test_what_has_no_counterpart_is_named(other, tmp_path, capsys):
    def rename(arrays, meta):
        meta["case"] = "plane3grid"

    def more(arrays, meta):
        arrays["z"], meta["outputs"]["z"] = np.zeros(2), {"shape": [2], "role": "seam"}

    def strange(arrays, meta):
        meta["input_check"] = {"x": [3.0, 1.0, 0.0, 0.0, 0.0]}

    def rainbow(arrays, meta):
        meta["inputs"]["x"]["kind"] = "rainbow"

    def larger(arrays, meta):
        arrays["y"], meta["outputs"]["y"]["shape"] = np.zeros((1, 288, 6, 6)), [1, 288, 6, 6]

    for change, sentence in (
        (rename, "FAILED: no counterpart here"),
        (more, "FAILED: no counterpart here of z"),
        (strange, "FAILED: seed 'other' gives other inputs than were recorded: x"),
        (rainbow, "could not be run: ValueError: inputs of kind 'rainbow' are not known"),
        (larger, "y is of shape (1, 288, 6, 5), recorded was (1, 288, 6, 6)"),
    ):
        figures = tmp_path / "f.json"
        assert run("--cases", other(change=change), "--json", figures) == 1
        assert sentence in capsys.readouterr().out
        (row,) = json.loads(figures.read_text())["rows"]
        assert not row["passed"] and row["problem"] and row["arrays"] == {}
    folder = other()
    path = folder.parent / "manifests" / "plane2grid.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "rotary": manifest["res_blocks_3d.0.alpha"]}))
    assert run("--cases", folder) == 1
    assert "FAILED: could not be run: no rule knows these 1 names of the checkpoint: rotary" in capsys.readouterr().out


def test_unusable_folders_are_one_sentence(other, tmp_path, capsys):
    def refused(*arguments):
        assert run(*arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("r3p parity: ") and "Traceback" not in message
        return message

    assert "there is no folder" in refused("--cases", tmp_path / "none")
    assert "holds no CASE.npz" in refused("--cases", tmp_path)
    folder = other()
    assert "--only sr_* fits no case of the folder, which holds plane2grid" in refused(
        "--cases", folder, "--only", "plane2grid", "--only", "sr_*"
    )
    assert "--json is" in refused("--cases", folder, "--json", tmp_path / "no" / "a.json")
    assert "--json is" in refused("--cases", folder, "--json", tmp_path)
    (folder / "broken.npz").write_bytes(b"PK")
    assert "broken.npz is not a golden case" in refused("--cases", folder)
    np.savez(folder / "broken.npz", a=np.zeros(2))
    assert "broken.npz is not a golden case" in refused("--cases", folder)
    meta = {"case": "broken", "model": None, "seed": "s", "inputs": {}, "outputs": {}}
    np.savez(folder / "broken.npz", a=np.zeros(2), meta=json.dumps(meta))
    assert "its description does not know a" in refused("--cases", folder)
    np.savez(folder / "broken.npz", meta=json.dumps(meta))
    assert "it holds nothing to compare" in refused("--cases", folder)
    (folder / "broken.npz").unlink()
    noise, manifest = folder.parent / "NOISE.json", folder.parent / "manifests" / "plane2grid.json"
    text = manifest.read_text()
    manifest.write_text("{")
    assert "plane2grid.json is not JSON" in refused("--cases", folder)
    manifest.unlink()
    assert "there is no file" in refused("--cases", folder)
    manifest.write_text(text)
    noise.write_text('{"plane2grid": {"y": {"max": 1}}}')
    assert "NOISE.json does not say the rel_l2 of each output of plane2grid" in refused("--cases", folder)
    noise.unlink()
    assert "NOISE.json" in refused("--cases", folder)
    shutil.rmtree(manifest.parent)
    assert "there is no folder" in refused("--cases", folder)


def test_bounds():
    def one(error, bound):
        return Comparison("a", "outputs", error, bound, None)

    assert one(1e-5, 1e-5).passed and not one(1.1e-5, 1e-5).passed
    assert not one(float("nan"), 1e-5).passed and one(float("nan"), 1e-5).share == float("inf")
    result = suite.Result("case", [one(1e-6, 1e-5), one(float("nan"), 1), one(2e-6, 1e-5)])
    assert not result.passed and result.nearest.error != result.nearest.error
    assert result.worst("outputs") != result.worst("outputs") and result.worst("seams") is None
    # Nearest its bound is not what differs most.
    result = suite.Result("case", [one(1e-3, 1e-2), one(9e-6, 1e-5)])
    assert result.nearest.error == 9e-6 and result.worst("outputs") == 1e-3
    case = parity.FOLDER.case("hubert_small")
    assert not case.noise and case.compare("pos_conv_embed", np.zeros(case.shape("pos_conv_embed"))).bound == 1e-5
