"""The paper's stages of images: teachers, starts, gradients, and that each stage goes on from the one before."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import traverse_util
from ml_collections import ConfigDict
from quick import drawn, quick_jit
from test_eg3d import TINY as TINY_EG3D

from data_pipelines import frames as data_frames
from data_pipelines import people_shards
from r3p import convert, weights
from r3p.errors import InputError
from r3p.models.decoder import Head
from r3p.models.eg3d import EG3D
from r3p.models.portrait import Portrait
from r3p.names import portrait as portrait_names
from r3p.names import superres as superres_names
from r3p.parity.layouts import channels_first, channels_last, leaf
from r3p.stages import frames, img2plane, motion2plane, parts, pretrained, teacher, terms, torso
from r3p.stages.draws import Draws
from r3p.train import load_config, train_and_evaluate


# ------------------------------------------------------------------------------------------------ teachers and starts
def eg3d_config(path):
    data = dict(teacher="eg3d", eg3d=str(path), truncation=0.7, cameras="")
    return ConfigDict(dict(data=data, seed=0, batch_size=2))


@pytest.fixture(scope="module")
def eg3d(tmp_path_factory):
    model = EG3D(**TINY_EG3D)
    cameras = np.zeros((1, 25), np.float32)
    variables = drawn(model, np.zeros((1, 6), np.float32), cameras, cameras)
    path = tmp_path_factory.mktemp("eg3d") / "eg3d.npz"
    weights.save(path, variables, {"kind": "eg3d", "fields": TINY_EG3D})
    return path


def test_a_generators_views_have_the_models_sizes(eg3d):
    made = teacher.make(eg3d_config(eg3d), 32, 8)
    batch = next(made.batches(3))
    draws = Draws(jnp.asarray(batch["example"]), jax.random.key(0))
    views = jax.eval_shape(lambda trees, batch: made.views(trees, batch, draws), made.init(), batch)
    for view in views:
        shapes = [x.shape for x in view]
        assert shapes == [(2, 32, 32, 3), (2, 8, 8, 3), (2, 8, 8, 1), (2, 25)]
    assert set(made.start()) == {"decoder", "superres"}


@pytest.mark.slow
def test_a_generator_shows_a_head_twice(eg3d):
    made = teacher.make(eg3d_config(eg3d), 32, 8)
    batch = next(made.batches(3))
    batch["target_camera"] = batch["target_camera"].copy()
    batch["target_camera"][0] = batch["source_camera"][0]
    draws = Draws(jnp.asarray(batch["example"]), jax.random.key(0))
    source, target = quick_jit(lambda trees, batch: made.views(trees, batch, draws))(made.init(), batch)
    assert np.abs(source.image).max() <= 1
    np.testing.assert_allclose(source.raw, terms.shrink(source.image, 8), atol=1e-6)
    # one camera, one picture but for the rays' samples; two cameras, two pictures
    same, other = (float(np.abs(source.image[k] - target.image[k]).mean()) for k in (0, 1))
    assert same < other


def test_teachers_are_named_and_fit(eg3d):
    with pytest.raises(InputError, match="eg3d is empty"):
        teacher.make(eg3d_config(""), 32, 8)
    with pytest.raises(InputError, match="images of 32 pixels, the model of 64"):
        teacher.make(eg3d_config(eg3d), 64, 16)
    config = eg3d_config(eg3d)
    config.data.teacher = "photographs"
    with pytest.raises(InputError, match="choose one of people, eg3d"):
        teacher.make(config, 32, 8)


def test_grafting():
    ours = {"params": {"a": {"w": np.zeros((2, 2))}, "b": {"w": np.zeros(3)}}}
    grown, fresh = pretrained.graft(ours, {"params": {"a": {"w": np.ones((2, 2))}, "c": np.ones(1)}}, "FILE")
    assert grown["params"]["a"]["w"].all() and not grown["params"]["b"]["w"].any() and fresh == ["b/w"]
    with pytest.raises(InputError, match="another size"):
        pretrained.graft(ours, {"params": {"a": {"w": np.ones((2, 3))}}}, "FILE")
    with pytest.raises(InputError, match="nothing of this stage's model"):
        pretrained.graft(ours, {"params": {"c": np.ones(1)}}, "FILE")


def test_a_start_is_a_model(tmp_path):
    weights.save(tmp_path / "x.npz", {"params": {"a": np.ones(1)}}, {"kind": "speech"})
    with pytest.raises(InputError, match="holds 'speech'"):
        pretrained.read(str(tmp_path / "x.npz"))


def test_keys_follow_the_terms():
    config = load_config("configs/motion2plane.py:smoke", [])
    assert {"pncc_before", "pncc_blink"} < set(motion2plane.keys(config))
    config.loss.laplacian, config.blink.goal = 0.0, 0.0
    assert "pncc_before" not in motion2plane.keys(config) and "pncc_blink" not in motion2plane.keys(config)
    config.perturb.goal = 0.5
    assert "pncc_perturbed" in motion2plane.keys(config)
    config.perturb.kind = "variation"
    assert "pncc_before" in motion2plane.keys(config)
    config.perturb.kind = "blur"
    with pytest.raises(InputError, match="choose one of noise, variation, laplacian"):
        motion2plane.keys(config)


@pytest.mark.parametrize("name", ["img2plane", "motion2plane", "torso"])
def test_both_modes_have_the_same_fields(name):
    def fields(mode):
        config = load_config(f"configs/{name}.py:{mode}", [])
        flat = traverse_util.flatten_dict(config.to_dict(), sep="/")
        return {k for k in flat if not k.startswith(("model/", "adversary/fields/"))}

    assert fields("full") == fields("smoke")
    with pytest.raises(ValueError, match="choose full or smoke"):
        load_config(f"configs/{name}.py:fast", [])


# ------------------------------------------------------------------------------------------------ golden gradients
@pytest.fixture
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def recorded_case(name):
    if name not in parity.FOLDER.names():
        pytest.skip(f"{name} is not among the cases")
    return parity.FOLDER.case(name)


@pytest.mark.slow
def test_gradients_of_the_head_stage_match_official(full_precision):
    """Through the stage's own drawing of a head, down to image-to-plane, adapter and decoder."""
    case = recorded_case("head_full_small")
    inputs, variables = case.inputs, convert.to_variables(case.official, portrait_names.HEAD)
    model = Portrait(torso=False, superres_fields={"raw_resolution": 32})
    show = parts.shower(model)
    weigh = [channels_last(case.cotangent(k)) for k in ("image_raw", "weights_img")]

    class Recorded:
        def uniform(self, name, shape):
            return jnp.asarray((inputs["u"] if name.startswith("fine") else inputs["jitter"]).reshape(1, *shape))

    def total(params, image, target):
        bound = {**variables, "params": params}
        maps = [channels_last(inputs[k]) for k in ("cond_cano", "cond_src")]
        planes = model.fuse(
            model.apply(bound, image, method="canonical"),
            model.apply(bound, jnp.concatenate([*maps, target], axis=-1), method="motion"),
        )
        head, _ = show(bound, planes, jnp.asarray(inputs["camera"]), Recorded(), "mv")
        return (terms.clamped(head.rgb) * weigh[0]).sum() + (head.weight * weigh[1]).sum()

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    value, (grads, *inner) = run(variables["params"], *(channels_last(inputs[k]) for k in ("img", "cond_tgt")))
    parity.check(case, "grad_total", value[None])
    for name, grad in zip(("img", "cond_tgt"), inner, strict=True):
        parity.check(case, f"grad/{name}", channels_first(grad))
    for name in (n.removeprefix("grad/") for n in case.recorded if n.startswith("grad/") and "." in n):
        parity.check(case, f"grad/{name}", leaf({"params": grads}, portrait_names.HEAD, name))


@pytest.mark.slow
def test_gradients_of_the_torso_stage_match_official(full_precision):
    """Through the stage's own fusion, for the parameters that it trains."""
    case = recorded_case("sr_warp_v2_v2")
    inputs, variables = case.inputs, convert.to_variables(case.official, superres_names.RULES)
    nested = {k: {torso.PART: v} for k, v in variables.items()}
    x = {k: channels_last(v) if v.ndim == 4 else jnp.asarray(v) for k, v in inputs.items()}
    around = torso.Surroundings(x["ref_torso_rgb"], x["ref_bg_rgb"], x["segmap"], x["kp_s"])
    cotangent = channels_last(case.cotangent("rgb"))

    def total(trained):
        head = Head(x["rgb"], x["x"], x["weights_img"], x["weights_img"])
        bound = {**nested, "params": {torso.PART: trained}}
        frame, _ = torso.fuse(Portrait(), bound, head, around, x["kp_d"], train=False, mutable=[])
        return jnp.sum(frame.rgb * cotangent)

    value, grads = jax.jit(jax.value_and_grad(total))(variables["params"])
    parity.check(case, "grad_total", value[None])
    for name in (n.removeprefix("grad/") for n in case.recorded if n.startswith("grad/") and "." in n):
        parity.check(case, f"grad/{name}", leaf({"params": grads}, superres_names.RULES, name))


# ------------------------------------------------------------------------------------------------ learning
STAGES = {"img2plane": img2plane, "motion2plane": motion2plane, "torso": torso}


# Smaller still: it is the step's graph that matters here.
SMALLER = ["model.coarse=4", "model.fine=2", "batch_size=2", "data.pncc_size=64", "lip_size=16", "density_points=8"]


def some_state(stage, seed=0):
    """A state with drawn parameters: compiling an `init` takes longer than a step."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(stage.init, jax.random.key(0))

    def param(path, spec):
        x = rng.standard_normal(spec.shape, dtype=np.float32)
        name = path[-1].key
        scale = np.prod(spec.shape[:-1]) ** -0.5 if "kernel" in name and len(spec.shape) > 1 else 0.1
        return 1 + 0.1 * np.abs(x) if name == "scale" else np.float32(scale) * x

    def rest(path, spec):
        if path[-1].key in ("u", "v"):  # singular vectors of the torso's spectral norms
            x = rng.standard_normal(spec.shape).astype(np.float32)
            return x / np.linalg.norm(x)
        return (
            np.ones(spec.shape, np.float32)
            if path[-1].key == "var"
            else np.full(spec.shape, 1e-3, np.float32) * (path[0].key == "tuned")
        )

    params = jax.tree_util.tree_map_with_path(param, shapes.params)
    model_state = jax.tree_util.tree_map_with_path(rest, shapes.model_state)
    held = {"params": {k: params[k] for k in shapes.average["params"]}}
    held |= {k: model_state[k] for k in shapes.average if k != "params"}
    zeros = [jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), t) for t in (shapes.step, shapes.opt_state)]
    return shapes.replace(
        step=zeros[0], params=params, model_state=model_state, opt_state=zeros[1], average=jax.tree.map(np.copy, held)
    )


def at(state, step):
    return state.replace(step=np.int32(step), opt_state={**state.opt_state, "count": np.int32(step)})


PARTS = {"img2plane", "decoder", "superres", "discriminator"}
MOVES = {  # who is trained at steps of the smoke configs
    "img2plane": {0: {"img2plane", "discriminator"}, 160: PARTS},
    "motion2plane": {16: {"img2plane", "adapter", "decoder", "superres"}, 160: {"superres", "discriminator"}},
    "torso": {16: {"superres"}, 160: {"superres", "discriminator"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_one_step(name):
    """Every term is finite, the adversary plays from its start, and those who are to learn do, nobody else."""
    config = load_config(f"configs/{name}.py:smoke", [])
    flat = traverse_util.flatten_dict(config.to_dict(), sep=".")
    for item in SMALLER:
        key, value = item.split("=")
        if key in flat:
            config.update_from_flattened_dict({key: int(value)})
    stage = STAGES[name].make(config)
    state, batch = some_state(stage), next(stage.batches(0))
    step = quick_jit(stage.step)
    for number, moving in MOVES[name].items():
        before = at(state, number)
        after, metrics = step(before, batch, jax.random.key(1, impl="rbg"))
        values = {k: float(v) for k, v in metrics.items()}
        print(name, number, {k: round(v, 4) for k, v in values.items()})
        assert np.isfinite(list(values.values())).all()
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((after.params, after.model_state, after.average)))
        late = number * config.pace >= config.adversary.start
        assert (values["mv_adv"] > 0) == (values["ref_adv"] > 0) == late
        assert all(values[k] > 0 for k in ("ref_l1", "mv_l1", "loss"))
        moved = {
            part
            for part in before.params
            if any(
                (a != b).any() for a, b in zip(*(jax.tree.leaves(s.params[part]) for s in (before, after)), strict=True)
            )
        }
        assert moved == moving
        assert set(after.average["params"]) == set(before.params) - {"discriminator"}
    if name == "motion2plane":
        assert values["tuned_blink"] != pytest.approx(1e-3, abs=1e-9) and values["laplacian"] > 0


@pytest.mark.slow
def test_each_stage_goes_on_from_the_one_before(tmp_path):
    last, states = "", {}
    for name in STAGES:
        chosen = ["steps=2", "log_every=1", "checkpoint_every=2", "preview_every=2", f'start="{last}"']
        states[name] = train_and_evaluate(load_config(f"configs/{name}.py:smoke", chosen), tmp_path / name)
        last = str(tmp_path / name)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [r["step"] for r in rows if "loss" in r] == [1, 2]
        assert len(list((tmp_path / name / "previews").iterdir())) == 1
    # What the last stage freezes is what the one before it left.
    for part in ("img2plane", "adapter", "decoder"):
        pairs = (jax.tree.leaves(states[k].average["params"][part]) for k in ("torso", "motion2plane"))
        for a, b in zip(*pairs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_people_are_held_out_or_evaluation_is_declined(tmp_path):
    people_shards.write_shards(tmp_path, 4, 3, 32, 16, 0)
    shards = ["data.source=shards", f"data.folder={tmp_path}", "data.pncc_size=16"]
    config = load_config("configs/torso.py:smoke", shards)
    batches, _ = frames.streams(config, 32, data_frames.KEYS)
    with pytest.raises(InputError, match=r"holds 2 people.*or set held_out_batches=0"):
        batches(0)
    config.held_out_batches = 0
    batches, held_out = frames.streams(config, 32, data_frames.KEYS)
    assert held_out is None and sorted(next(batches(0))["example"]) in ([0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3])


def test_truths_agree_on_the_device():
    """A frame's masks, head and torso from its batch."""
    rng = np.random.default_rng(0)
    segmap = rng.integers(0, 6, (2, 16, 16)).astype(np.uint8)
    images = {k: rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8) for k in ("source", "target", "target_head")}
    masks = {k: rng.integers(0, 256, (2, 16, 16)).astype(np.uint8) for k in ("target_head_mask", "target_mask")}
    others = {
        f"{side}_{k}": np.zeros((2, 1), np.float32) for side in ("source", "target") for k in ("camera", "keypoints")
    }
    batch = {"source_segmap": segmap, **images, **masks, **others}
    source, target = frames.source_truth(batch), frames.target_truth(batch)
    on = np.isin(segmap, (1, 3, 5))[..., None]
    np.testing.assert_allclose(source.head, np.where(on, images["source"] / 127.5 - 1, -1), atol=1e-6)
    np.testing.assert_array_equal(source.torso_mask[..., 0] > 0, np.isin(segmap, (2, 4)))
    person, head = (masks[k] / 255 for k in ("target_mask", "target_head_mask"))
    np.testing.assert_allclose(target.torso_mask[..., 0], person * (1 - head), atol=1e-6)
