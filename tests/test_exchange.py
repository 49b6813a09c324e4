"""The way to official names and back, and `r3p convert`."""

import json
import re

import jax
import numpy as np
import parity
import pytest
from test_portrait import TINY, TORSO, drawn, example

from r3p import avatar, checkpoint, cli, convert, recognise, speech_motion, weights
from r3p.checkpoint_files import opened, read_arrays
from r3p.checkpoint_files.write import write_torch
from r3p.convert import Rule, check_against, to_official, to_variables, unused_arrays
from r3p.errors import InputError
from r3p.models.portrait import Portrait
from r3p.names import audio2motion, portrait, superres
from r3p.parity.networks import NOISY_HEAD, network

# Every table with the names that it converts.
TABLES = {
    **{model: (model, network(model).rules) for model in parity.models()},
    "super-resolution with noise": ("sr_head", NOISY_HEAD.rules),
    "fused super-resolution, v3": ("sr_warp_v2_v2", superres.RULES_V3),
    "head and torso, v3": ("torso_full", portrait.RULES_V3),
}
BOOKKEEPING = r"(.*\.)?(num_batches_tracked|resample_filter|noise_const|noise_strength)|lambda_pertube.*"
NEVER_USED = ("head_torso_alpha_predictor", "blink_embed.weight", "masked_spec_embed", "vgg19.", "vggface.")
# Several names fit a leaf: the manifest says which.
WITH_MANIFEST = ("disc", "hubert_small", "hubert_base_small", "hubert_large")


manifest = parity.FOLDER.manifest


def state_of(specs):
    """An array of its own for each name; large ones repeat a row, which costs no memory."""
    out = {}
    for i, (name, spec) in enumerate(specs.items()):
        rng, shape = np.random.default_rng(i), tuple(spec["shape"])
        small = shape if np.prod(shape) < 1e6 else (1, *shape[1:])
        out[name] = np.broadcast_to(rng.integers(0, 127, small).astype(spec["dtype"]), shape)
    return out


def one_of_each(a):
    """`a` without the rows that `state_of` repeats."""
    return a if a.size < 1e6 else a[:1]


@pytest.mark.parametrize("table", TABLES)
def test_there_and_back_is_the_same(table):
    name, rules = TABLES[table]
    state = state_of(manifest(name))
    listed = {k: (v.shape, v.dtype) for k, v in state.items()}
    variables = to_variables(state, rules)
    back = to_official(variables, rules, listed)
    assert list(back) == list(state)
    different = [k for k in state if not np.array_equal(one_of_each(state[k]), one_of_each(back[k]))]
    assert all(state[k].shape == back[k].shape and state[k].dtype == back[k].dtype for k in state)
    # What no network here reads is kept beside.
    kept = unused_arrays(state, rules)
    assert kept.keys() == set(different)
    assert all(any(part in k for part in NEVER_USED) for k in kept if not re.fullmatch(BOOKKEEPING, k))
    whole = to_official(variables, rules, listed, kept)
    assert all(np.array_equal(one_of_each(state[k]), one_of_each(whole[k])) for k in state)
    if table in WITH_MANIFEST:
        with pytest.raises(InputError, match="cannot be read backwards"):
            to_official(variables, rules)
    else:
        held = to_official(variables, rules)
        assert held.keys() <= state.keys() and not held.keys() & set(different)
    again = to_variables(back, rules)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.ravel()[:1000], b.ravel()[:1000]), variables, again)


def test_every_layout_has_its_inverse():
    assert convert.LAYOUTS.keys() <= convert.INVERSES.keys()
    for kind, layout in convert.LAYOUTS.items():
        rank = {"linear": 2, "conv1d": 3, "conv2d": 4, "conv3d": 5}.get(kind)
        if rank:
            a = np.arange(np.prod(range(2, 2 + rank))).reshape(range(2, 2 + rank))
            np.testing.assert_array_equal(convert.INVERSES[kind](layout(a)), a)


def test_bookkeeping_has_defined_values():
    filters = convert.bookkeeping("a.resample_filter", (4, 4), np.dtype(np.float32))
    np.testing.assert_array_equal(filters, manifest("sr_head")["block0.resample_filter"]["value"])
    count = convert.bookkeeping("a.num_batches_tracked", (), np.dtype(np.int64))
    assert count.shape == () and count.dtype == np.int64 and count == 0
    with pytest.raises(InputError, match="resample_filter is of shape"):
        convert.bookkeeping("resample_filter", (12, 12), np.dtype(np.float32))


def test_what_has_no_way_back_is_named():
    rules = [Rule(r"a\.weight", "params/a/kernel", "linear"), Rule(r"a\.count", None)]
    variables = {"params": {"a": {"kernel": np.ones((2, 3))}}}
    assert to_official(variables, rules)["a.weight"].shape == (3, 2)
    with pytest.raises(InputError, match="params/b"):
        to_official({"params": {"b": np.ones(2)}}, rules)
    for listed, sentence in (
        ({"a.weight": ((2, 3), "f4")}, r"a\.weight: \(3, 2\) instead of \(2, 3\)"),
        ({"a.weight": ((3, 2), "f4"), "a.other": ((), "f4")}, r"missing \['a.other'\]"),
        ({"a.count": ((), "i8")}, r"left over \['params/a/kernel'\]"),
    ):
        with pytest.raises(InputError, match=sentence):
            to_official(variables, rules, listed)
    for pattern, path in ((r"a+", "params/a"), (r"(a|b)\.x?", "params/a"), (r"(\d)\.(\d)", r"params/\1")):
        with pytest.raises(InputError, match="pattern"):
            to_official({"params": {"a": np.ones(2)}}, [Rule(pattern, path)])
    twice = [Rule(r"(\d+)\.w(\w)", r"params/\2/\1/x\1")]
    assert to_official({"params": {"c": {"3": {"x3": np.ones(1)}}}}, twice).keys() == {"3.wc"}
    with pytest.raises(InputError, match="no rule"):
        to_official({"params": {"c": {"3": {"x4": np.ones(1)}}}}, twice)


# ------------------------------------------------------------------------------------------------ recognising
@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("torso_full", "torso"),
        ("head_full", "head"),
        ("i2p_full", "img2plane"),
        ("i2p_full_trigrid_v2", "img2plane"),
        ("a2m_pitch", "audio2motion"),
        ("a2m_vae", "audio2motion"),
        ("hubert_large", "hubert"),
        ("syncnet", "syncnet"),
        ("syncnet_lip", "syncnet"),
        ("eg3d_r3d", "eg3d"),
        ("disc", "discriminator"),
        ("perceptual", "perceptual"),
    ],
)
def test_networks_are_known_by_their_names(name, network):
    state = state_of(manifest(name))
    names = {f"state_dict.model.{k}": v for k, v in state.items()} | {"optimizer_states.0.state.0.exp_avg": np.ones(2)}
    (found,) = recognise.find(names)
    assert (found.kind.name, found.prefix) == (network, "state_dict.model.")
    assert recognise.find(state)[0].prefix == ""
    shapes = {k: v.shape for k, v in state.items()}
    fields = found.kind.fields(shapes, {})
    check_against(to_variables(state, found.kind.table(fields)), found.kind.wanted(fields, shapes))
    assert recognise.of_description({"kind": found.kind.kind, "network": network, **found.kind.meta(fields)}) == (
        found.kind,
        json.loads(json.dumps(fields)),
    )


def test_a_portrait_of_tri_grids_is_known():
    """The config that the original recommends for training anew: three slices a plane, then refined."""
    state = state_of(manifest("torso_full"))
    grids = state_of(manifest("i2p_full_trigrid_v2"))
    state = {name: array for name, array in state.items() if not name.startswith("cano_")}
    for name, array in grids.items():
        if name.startswith(("img2plane_backbone.", "plane2grid_module.")):
            state[name.replace("img2plane_backbone.", "cano_img2plane_backbone.")] = array
    for last in ("weight", "bias"):
        name = f"secc_img2plane_backbone.to_plane_cnn.7.{last}"
        state[name] = np.tile(state[name], (3,) + (1,) * (state[name].ndim - 1))
    (found,) = recognise.find(state)
    shapes = {name: array.shape for name, array in state.items()}
    fields = found.kind.fields(shapes, {})
    assert found.kind.name == "torso" and fields["grid_blocks"] == 1
    assert fields["img2plane_fields"]["depth"] == fields["adapter_fields"]["depth"] == 3
    check_against(to_variables(state, found.kind.table(fields)), found.kind.wanted(fields, shapes))


def test_options_beside_a_checkpoint_count(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "num_samples_coarse: 24\nhtbsr_head_weight_fuse_mode: 'v3' # the third\nhtbsr_head_threshold: 0.7\n"
        "phase1_plane_fusion_mode: mul\nnested:\n  box_warp: 3\nlist: [1, 2]\nbox_warp: 2\n"
    )
    options = recognise.options_beside(tmp_path / "a.ckpt")
    shapes = {k: tuple(v["shape"]) for k, v in manifest("torso_full").items()}
    kind = recognise.find(shapes)[0].kind
    fields = kind.fields(shapes, options)
    assert fields["coarse"] == 24 and fields["box_warp"] == 2.0 and fields["plane_fusion"] == "mul"
    assert fields["superres_fields"]["fuse"] == "v3" and fields["superres_fields"]["threshold"] == 0.7
    assert kind.table(fields) is portrait.RULES_V3
    assert kind.fields(shapes, {})["superres_fields"]["fuse"] == "v2"
    with pytest.raises(InputError, match="num_samples_fine"):
        kind.fields(shapes, {"num_samples_fine": "many"})
    with pytest.raises(InputError, match="fuse mode v1"):
        kind.fields(shapes, {"htbsr_head_weight_fuse_mode": "v1"})
    assert recognise.options_beside(tmp_path / "no" / "a.ckpt") == {}


# ------------------------------------------------------------------------------------------------ the command
def test_speech_there_and_back(tmp_path, capsys):
    state = parity.official_weights("a2m_pitch")
    (tmp_path / "run").mkdir()
    for step in (9, 10):  # the newest is taken
        write_torch(
            tmp_path / "run" / f"model_ckpt_steps_{step}.ckpt",
            {"state_dict": {"model": state if step == 10 else {}}, "global_step": step},
        )
    folder, back = tmp_path / "weights", tmp_path / "back.pt"
    assert cli.main(["convert", "--from", str(tmp_path / "run"), "--to", str(folder)]) == 0
    assert "the audio2motion network of model_ckpt_steps_10.ckpt, 231 arrays, 11.86 million" in capsys.readouterr().out
    model, variables = speech_motion.load_default(folder)
    assert model.pitch and model.pairing == "first"
    wanted = to_variables(state, audio2motion.RULES)
    jax.tree.map(np.testing.assert_array_equal, variables, wanted)
    _, meta = weights.read(folder)
    assert meta["provenance"]["step"] == 10 and len(meta["provenance"]["sha256"]) == 64
    assert cli.main(["convert", "--from", str(folder), "--to-torch", str(back)]) == 0
    got = read_arrays(back)
    assert list(got) == [f"state_dict.model.{name}" for name in state]
    for name, value in state.items():
        stored = got[f"state_dict.model.{name}"]
        assert stored.dtype == value.dtype and stored.tobytes() == value.tobytes(), name


def test_a_model_of_ours_there_and_back(tmp_path, capsys):
    model = Portrait(**TINY, superres_fields=TORSO)
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), *example(b=1)))
    npz, pt, folder = tmp_path / "a.npz", tmp_path / "a.pt", tmp_path / "w"
    meta = {"kind": avatar.WEIGHTS_KIND, "fields": TINY | {"superres_fields": TORSO}, "pncc_size": 32}
    weights.save(npz, variables, meta)
    assert cli.main(["convert", "--from", str(npz), "--to-torch", str(pt)]) == 0
    assert "bookkeeping arrays" in capsys.readouterr().out
    folder.mkdir()  # an empty one is no obstacle
    assert cli.main(["convert", "--from", str(pt), "--to", str(folder)]) == 0
    again, trees, described = avatar.load_model(folder)
    assert described["pncc_size"] == 32 and described["network"] == "torso"
    assert again == avatar.load_model(npz)[0]
    jax.tree.map(np.testing.assert_array_equal, trees, variables)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "a.pt", "w"]


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def fails(path, *_, **__):
        (tmp_path / "w.orbax-checkpoint-tmp-7").mkdir()
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint.ocp, "save", fails)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save_weights(tmp_path / "w", {"params": {"a": np.ones(2)}}, {"kind": "x"})
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="empty, such as"):
        checkpoint.save_weights(tmp_path / "w", {"params": {"a": np.ones((0, 2))}}, {"kind": "x"})


def test_several_networks_in_one_file(tmp_path, capsys):
    shapes = manifest("a2m_vae")
    one = {k: np.zeros(v["shape"], v["dtype"]) for k, v in shapes.items()}
    names = {f"{prefix}{k}": v for prefix in ("G.", "G_ema.") for k, v in one.items()}
    assert [f.prefix for f in recognise.find(names)] == ["G_ema.", "G."]
    path = tmp_path / "a.pt"
    write_torch(path, {"G": one, "G_ema": one})
    assert cli.main(["convert", "--from", str(path), "--to", str(tmp_path / "w"), "--network", "audio2motion"]) == 0
    _, meta = weights.read(tmp_path / "w")
    assert meta["official"]["prefix"] == "G_ema."
    assert cli.main(["convert", "--from", str(path), "--to", str(tmp_path / "v"), "--network", "head"]) == 2
    assert "it holds: audio2motion (G_ema), audio2motion (G)" in capsys.readouterr().err


def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, capsys):
    def refused(*arguments):
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        assert cli.main(["convert", *map(str, arguments)]) == 2
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
        message = capsys.readouterr().err
        assert message.startswith("r3p convert: ") and "Traceback" not in message
        return message

    out, ckpt, npz = tmp_path / "w", tmp_path / "a.ckpt", tmp_path / "a.npz"
    assert "cannot be read" in refused("--from", ckpt, "--to", out)
    ckpt.write_bytes(b"\x80\x02cos\nsystem\n.")
    assert "asks for os.system" in refused("--from", ckpt, "--to", out)
    assert "no model_ckpt_steps_N" in refused("--from", tmp_path, "--to", out)
    write_torch(ckpt, {"state_dict": {"model": {"a": np.ones(2)}}})
    assert "none of the networks" in refused("--from", ckpt, "--to", out)
    state = {k: np.zeros(v["shape"], v["dtype"]) for k, v in manifest("a2m_vae").items()}
    for change, sentence in (
        ({"strange.weight": np.ones(2)}, "no rule knows these 1 names of the checkpoint: strange.weight"),
        ({"vae.decoder.out_proj.bias": np.ones(3, np.float32)}, "do not fit this network"),
        ({"vae.decoder.out_proj.weight": np.ones(3, np.float32)}, "expected 3 dimensions"),
        ({"vae.decoder.out_proj.bias": np.full(64, np.nan, np.float32)}, "not finite"),
    ):
        write_torch(ckpt, state | change)
        assert sentence in refused("--from", ckpt, "--to", out)
    write_torch(ckpt, {"r3p": json.dumps({"kind": "audio2motion", "model": {"wings": 2}}), "model": state})
    assert "another version of r3p" in refused("--from", ckpt, "--to", out)
    write_torch(ckpt, state)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert "exists already" in refused("--from", ckpt, "--to", tmp_path / "full")
    assert "exists already" in refused("--from", ckpt, "--to", ckpt)

    weights.save(npz, {"a": np.ones(2)}, {"kind": "backdrop"})
    assert "weights of r3p already" in refused("--from", npz, "--to", out)
    assert "which has no official names" in refused("--from", npz, "--to-torch", tmp_path / "b.pt")
    assert "expected a name that ends in" in refused("--from", npz, "--to-torch", tmp_path / "b.npz")
    assert "exists already" in refused("--from", npz, "--to-torch", ckpt)
    assert "is no folder of weights" in refused("--from", tmp_path / "full", "--to-torch", tmp_path / "b.pt")
    assert "--network" in refused("--from", npz, "--to-torch", tmp_path / "b.pt", "--network", "head")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "rules", "kind"),
    [
        ("torso_full", portrait.RULES, avatar.WEIGHTS_KIND),
        ("i2p_full_trigrid_v2", portrait.IMAGE_TO_PLANE, "image-to-plane model"),
    ],
)
def test_a_whole_model_there_and_back(model, rules, kind, tmp_path):
    state = parity.official_weights(model)
    ckpt, folder, back = tmp_path / "a.ckpt", tmp_path / "w", tmp_path / "b.ckpt"
    write_torch(ckpt, {"state_dict": {"model": state}})
    assert cli.main(["convert", "--from", str(ckpt), "--to", str(folder)]) == 0
    ckpt.unlink()
    variables, meta = weights.load(folder, kind)
    assert avatar.build(meta["fields"]).grid_blocks == (model == "i2p_full_trigrid_v2")
    jax.tree.map(np.testing.assert_array_equal, variables, to_variables(state, rules))
    assert cli.main(["convert", "--from", str(folder), "--to-torch", str(back)]) == 0
    with opened(back) as file:
        for name, value in state.items():
            got = file.arrays[f"state_dict.model.{name}"]
            assert (got.shape, got.dtype) == (value.shape, value.dtype)
            assert got.read().tobytes() == value.tobytes(), name
