"""`r3p convert` of what teaches or prepares: HuBERT, SyncNets, EG3D, discriminator, VGG."""

import json
import re

import jax
import numpy as np
import parity
import pytest
from quick import drawn

from r3p import cli, recognise
from r3p.checkpoint_files import read_arrays
from r3p.checkpoint_files.inert import Instance
from r3p.checkpoint_files.write import write_torch
from r3p.convert import to_official, to_variables
from r3p.errors import InputError
from r3p.models.discriminator import Discriminator
from r3p.models.eg3d import EG3D, PUBLISHED
from r3p.models.hubert import Hubert, from_config
from r3p.models.perceptual import FACES, VGG16, VGG19
from r3p.models.syncnet import SyncNet
from r3p.names import eg3d, hubert, perceptual, syncnet

SIDE = (1, 25)


def nested(state, prefix):
    tree = state
    for part in reversed(prefix.removesuffix(".").split(".") if prefix else []):
        tree = {part: tree}
    return tree


def there_and_back(folder, state, name, prefix="", beside=None):
    """Converts `state` to weights and back; every array has to return. The network that was restored."""
    folder.mkdir(exist_ok=True)
    ckpt, to, back = folder / "a.pt", folder / "weights", folder / "back.pt"
    write_torch(ckpt, nested(state, prefix))
    for file, text in (beside or {}).items():
        (folder / file).write_text(text)
    assert cli.main(["convert", "--from", str(ckpt), "--to", str(to)]) == 0
    assert cli.main(["convert", "--from", str(to), "--to-torch", str(back)]) == 0
    got = read_arrays(back)
    assert list(got) == [prefix + k for k in state]
    for key, value in state.items():
        stored = got[prefix + key]
        assert stored.dtype == value.dtype and stored.tobytes() == value.tobytes(), key
    return recognise.load(to, name)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ------------------------------------------------------------------------------------------------ speech
def older(state):
    """As PyTorch before 2.1 names a weight norm."""
    endings = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    return {re.sub("|".join(endings), lambda m: endings[m[0]], k): v for k, v in state.items()}


@pytest.mark.parametrize("rename", [dict, older], ids=["newer", "older"])
def test_hubert_with_its_config(rename, tmp_path, capsys):
    case = parity.FOLDER.case("hubert_small")
    beside = {"config.json": json.dumps({"model_type": "hubert", **case.meta["config"]})}
    module, variables = there_and_back(tmp_path, rename(case.official), "hubert", beside=beside)
    assert "the hubert network of a.pt" in capsys.readouterr().out
    assert module == from_config(case.meta["config"])
    equal(variables, to_variables(case.official, hubert.RULES))


def test_hubert_under_a_head_for_another_task(tmp_path):
    case = parity.FOLDER.case("hubert_small")
    beside = {"config.json": json.dumps(case.meta["config"])}
    state = older(case.official)
    ckpt, to = tmp_path / "pytorch_model.bin", tmp_path / "weights"
    write_torch(ckpt, {"hubert": state, "lm_head": {"weight": np.zeros((32, 64), np.float32)}})
    (tmp_path / "config.json").write_text(beside["config.json"])
    assert cli.main(["convert", "--from", str(ckpt), "--to", str(to)]) == 0
    equal(recognise.load(to, "hubert")[1], to_variables(case.official, hubert.RULES))


def test_published_sizes_of_hubert_need_no_config(tmp_path, capsys):
    shapes = {k: tuple(s["shape"]) for k, s in parity.FOLDER.manifest("hubert_large").items()}
    (found,) = recognise.find(shapes)
    for names in (shapes, older(shapes)):
        fields = found.kind.fields(names, {})
        assert found.kind.module(fields) == Hubert()
    # The base has its first norm over time, and none of the others.
    base = from_config({})
    official = {k: s for k, s in shapes.items() if not re.search(r"conv_layers\.[1-6]\.layer_norm|conv\.bias$", k)}
    small = {
        "feature_projection.projection.weight": (768, 512),
        "encoder.layers.0.feed_forward.intermediate_dense.weight": (3072, 768),
    }
    small["encoder.pos_conv_embed.conv.parametrizations.weight.original1"] = (768, 48, 128)
    layers = {k: s for k, s in official.items() if not re.match(r"encoder\.layers\.(1[2-9]|2\d)\.", k)}
    assert found.kind.module(found.kind.fields(layers | small, {})) == base
    state = parity.official_weights("hubert_small")
    write_torch(tmp_path / "a.pt", state)
    assert cli.main(["convert", "--from", str(tmp_path / "a.pt"), "--to", str(tmp_path / "w")]) == 2
    assert "put its config.json beside the checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("model", [SyncNet(features=12, width=4, mouth_stem=6, depth=2), SyncNet(6, 4, 8, 3)])
def test_syncnets(model, tmp_path):
    variables = drawn(model, np.zeros((2, 10, 8), np.float32), np.zeros((2, 5, 18), np.float32))
    state = to_official(variables, syncnet.RULES)
    # Counts of batches, which ours have not, are trained ones.
    state |= {
        k.replace("running_mean", "num_batches_tracked"): np.array(70_000 + i, np.int64)
        for i, k in enumerate(state)
        if k.endswith("running_mean")
    }
    module, again = there_and_back(tmp_path, state, "syncnet", "state_dict.model.")
    assert module == model
    equal(again, variables)


# ------------------------------------------------------------------------------------------------ EG3D
TINY = EG3D(
    latent=6,
    style_width=8,
    plane_channels=4,
    backbone_fields={"widths": (8, 8, 6)},
    decoder_fields={"hidden": 8, "features": 5},
    superres_fields={"clamp": 256.0, "widths": (6, 4), "raw_resolution": 8},
    coarse=4,
    fine=2,
)


def tiny_generator():
    variables = drawn(TINY, np.zeros((1, 6), np.float32), np.zeros(SIDE, np.float32), np.zeros(SIDE, np.float32))
    return variables, to_official(variables, eg3d.RULES)


@pytest.mark.parametrize("published", [False, True])
def test_generators(published, tmp_path):
    variables, state = tiny_generator()
    options = "ray_near: 2.25\nray_far: 3.3\nones_ws_for_sr: false\n" if published else "ones_ws_for_sr: true\n"
    options += "num_samples_coarse: 24 # fewer\nbox_warp: 2\n"
    module, again = there_and_back(tmp_path, state, "eg3d", "state_dict.gen.", {"config.yaml": options})
    equal(again, variables)
    for name in ("latent", "style_width", "mapping_depth", "plane_channels", "backbone_fields", "decoder_fields"):
        assert getattr(module, name) == getattr(TINY, name), name
    assert (module.coarse, module.fine, module.box_warp) == (24, 48, 2.0)
    assert module.superres_fields["widths"] == (6, 4) and module.superres_fields["clamp"] == 256
    wanted = PUBLISHED if published else {}
    for name in PUBLISHED:
        assert getattr(module, name) == wanted.get(name, getattr(EG3D, name)), name


def test_a_pickled_generator_is_the_published_one(tmp_path):
    _, state = tiny_generator()
    shapes = {k: v.shape for k, v in state.items()}
    rays = {"ray_start": 2.0, "ray_end": 3.0, "depth_resolution": 96, "avg_camera_radius": 1.7}
    generator = Instance("training.triplane.TriPlaneGenerator")
    generator.build({"rendering_kwargs": Instance("dnnlib.EasyDict", entries=rays)})
    tree = {"G_ema": generator, "D": {}}
    options = recognise.options_inside(tree, "G_ema.")
    assert options == {"published": True, "ray_near": 2.0, "ray_far": 3.0, "num_samples_coarse": 96}
    (row,) = (kind for kind in recognise.KINDS if kind.name == "eg3d")
    module = row.module(row.fields(shapes, options))
    assert (module.superres_style, module.limits, module.clamp_image) == ("latent", (2.0, 3.0), False)
    assert module.coarse == 96 and module.fine == 48
    assert recognise.options_inside({"state_dict": {"model": {}}}, "state_dict.model.") == {}
    assert recognise.options_inside({}, "") == {}
    # Its arrays alone say as much.
    assert there_and_back(tmp_path, state, "eg3d", "G_ema.")[0].superres_style == "latent"
    with pytest.raises(InputError, match="white_back"):
        row.fields(shapes, {"white_back": True})
    with pytest.raises(InputError, match=r"images of \(256, 256\)"):
        row.fields({**shapes, "superresolution.block1.conv1.noise_const": (256, 256)}, {})


def test_a_file_with_generators_and_discriminator(tmp_path, capsys):
    _, generator = tiny_generator()
    ckpt = tmp_path / "a.pt"
    write_torch(ckpt, {"G": generator, "D": tiny_discriminator(), "G_ema": generator})
    assert cli.main(["convert", "--from", str(ckpt), "--to", str(tmp_path / "w")]) == 0
    assert "holds several networks: eg3d (G_ema), eg3d (G), discriminator (D)" in capsys.readouterr().out
    to = tmp_path / "d"
    assert cli.main(["convert", "--from", str(ckpt), "--to", str(to), "--network", "discriminator"]) == 0
    assert recognise.load(to, "discriminator")[0].resolution == 16
    with pytest.raises(InputError, match="'discriminator', expected 'eg3d'"):
        recognise.load(to, "eg3d")


# ------------------------------------------------------------------------------------------------ images
def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tiny_discriminator(widths=(4, 6, 8), depth=2, style=8):
    """Official names of one that judges images of 4 * 2^(n - 1) pixels."""
    sides = [4 * 2**i for i in range(len(widths) - 1, 0, -1)]
    shapes = {f"b{sides[0]}.fromrgb.weight": (widths[0], 6, 1, 1), f"b{sides[0]}.fromrgb.bias": (widths[0],)}
    for side, width, wider in zip(sides, widths, widths[1:], strict=False):
        shapes |= {f"b{side}.conv0.weight": (width, width, 3, 3), f"b{side}.conv0.bias": (width,)}
        shapes |= {f"b{side}.conv1.weight": (wider, width, 3, 3), f"b{side}.conv1.bias": (wider,)}
        shapes |= {f"b{side}.skip.weight": (wider, width, 1, 1), f"b{side}.skip.resample_filter": (4, 4)}
    shapes |= {"mapping.embed.weight": (style, 25), "mapping.embed.bias": (style,)}
    for i in range(depth):
        shapes |= {f"mapping.fc{i}.weight": (style, style), f"mapping.fc{i}.bias": (style,)}
    last = widths[-1]
    shapes |= {"b4.conv.weight": (last, last + 1, 3, 3), "b4.conv.bias": (last,)}
    shapes |= {"b4.fc.weight": (last, 16 * last), "b4.fc.bias": (last,)}
    shapes |= {"b4.out.weight": (style, last), "b4.out.bias": (style,)}
    return {name: array(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def test_discriminators(tmp_path):
    options = {"config.yaml": "disc_c_noise: 0.5\ngroup_size_for_mini_batch_std: 4\n"}
    module, _ = there_and_back(tmp_path, tiny_discriminator(), "discriminator", "state_dict.disc.", options)
    assert module == Discriminator((4, 6, 8), 2, 8, group=4, camera_noise=0.5)
    shapes = {k: tuple(s["shape"]) for k, s in parity.FOLDER.manifest("disc").items()}
    row = recognise.find(shapes)[0].kind
    assert row.module(row.fields(shapes, {})) == Discriminator()


def vgg(convs, name, widths=(3, 4, 4, 5, 5)):
    """`name(stage, convolution, number)` names a layer; number as torchvision counts."""
    out, before, number = {}, 3, 0
    for i, (count, width) in enumerate(zip(convs, widths, strict=True)):
        for j in range(count):
            theirs = name(i, j, number)
            out |= {f"{theirs}.weight": array(width, before, 3, 3, seed=number), f"{theirs}.bias": array(width)}
            before, number = width, number + 2
        number += 1
    return out


WHOLE19, WHOLE16 = (2, 2, 4, 4, 4), (2, 2, 3, 3, 3)


def test_perceptual_networks_of_a_model(tmp_path):
    state = vgg(WHOLE19, lambda i, j, n: f"vgg19.network.{n}") | vgg(WHOLE16, lambda i, j, n: f"vggface.network.{n}")
    module, variables = there_and_back(tmp_path, state, "perceptual", "criterion.")
    equal(variables, to_variables(state, perceptual.RULES))
    assert module.vgg19_fields["widths"] == module.vggface_fields["widths"] == (3, 4, 4, 5, 5)


@pytest.mark.parametrize("name", ["vgg19", "vggface"])
def test_perceptual_networks_as_published(name, tmp_path):
    if name == "vgg19":
        state = vgg(WHOLE19, lambda i, j, n: f"features.{n}") | {"classifier.0.weight": array(7, 5)}
    else:
        state = vgg(WHOLE16, lambda i, j, n: f"conv{i + 1}_{j + 1}") | {"fc6.weight": array(7, 5)}
    module, variables = there_and_back(tmp_path, state, name)
    assert module.convs == (VGG19 if name == "vgg19" else VGG16)
    assert (module.mean == FACES["mean"]) == (name == "vggface")
    image = np.full((1, 16, 16, 3), 0.5, np.float32)
    assert [x.shape[-1] for x in module.apply(variables, image)] == [3, 4, 4, 5, 5]
    first = state["features.0.weight" if name == "vgg19" else "conv1_1.weight"]
    np.testing.assert_array_equal(variables["params"]["conv0_0"]["kernel"], first.transpose(2, 3, 1, 0))
