"""Planning: topologies, traffic of programs, batches' shapes without data, and the toy stage compiled for a TPU."""

import dataclasses
import importlib.util
import json
import math

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from toys import stage as toy

from benchmarks import plan as table
from r3p import chips, cli, hlo, plan, sharding
from r3p.errors import InputError
from r3p.models.discriminator import DiscriminatorBlock
from r3p.stages.absent import stand_in
from r3p.train import load_config, load_stage

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
TOY = "tests/toys/config.py"


def test_topologies_are_as_their_names_say():
    found = {n: chips.topology(n) for n in ("v5e-16", "v5e-256", "v5p-128", "v6e-64", "v4-32", "h100-16", "h100-2")}
    assert {n: (t.count, t.shape) for n, t in found.items()} == {
        "v5e-16": (16, "4x4"), "v5e-256": (256, "16x16"), "v5p-128": (64, "4x4x4"), "v6e-64": (64, "8x8"),
        "v4-32": (16, "2x2x4"), "h100-16": (16, "1x2x8"), "h100-2": (2, "1x1x2"),
    }  # fmt: skip
    assert all(math.prod(map(int, t.shape.split("x"))) == t.count for t in found.values())
    assert found["h100-16"].network < found["h100-2"].network


@pytest.mark.parametrize("name", ["v5e", "v9-8", "v5e-17", "v5p-127", "h100-12"])
def test_another_topology_is_refused(name):
    with pytest.raises(InputError, match=name):
        chips.topology(name)


def test_arrays_are_as_large_as_their_tiles():
    padded, inside, plain, packed = hlo.arrays(
        "(f32[4,3]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}, bf16[10]{0}, s4[8]{0})"
    )
    assert (padded.stored, padded.size) == (8 * 128 * 4, 48)
    assert (inside.stored, inside.size) == (0, 8 * 128 * 4)
    assert (plain.stored, packed.stored) == (20, 4)


PROGRAM = """HloModule jit_f, num_partitions=4

%body (p: (s32[], f32[64])) -> (s32[], f32[64]) {
  %p = (s32[], f32[64]{0}) parameter(0)
  %k = s32[] get-tuple-element(%p), index=0
  %x = f32[64]{0} get-tuple-element(%p), index=1
  %r = f32[64]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[64]{0}) tuple(%k, %r)
}

%condition (q: (s32[], f32[64])) -> pred[] {
  %q = (s32[], f32[64]{0}) parameter(0)
  %n = s32[] constant(5)
  %i = s32[] get-tuple-element(%q), index=0
  ROOT %l = pred[] compare(%i, %n), direction=LT
}

%slices (a: f32[1000], b: s32[]) -> f32[10] {
  %a = f32[1000]{0} parameter(0)
  %b = s32[] parameter(1)
  ROOT %s = f32[10]{0} dynamic-slice(%a, %b), dynamic_slice_sizes={10}
}

ENTRY %main (in: f32[1000], at: s32[], y: f32[64]) -> f32[256] {
  %in = f32[1000]{0} parameter(0)
  %at = s32[] parameter(1)
  %y = f32[64]{0} parameter(2)
  %few = f32[10]{0} fusion(%in, %at), kind=kLoop, calls=%slices
  %start = (s32[], f32[64]{0}) tuple(%at, %y)
  %w = (s32[], f32[64]{0}) while(%start), condition=%condition, body=%body
  %z = f32[64]{0} get-tuple-element(%w), index=1
  ROOT %g = f32[256]{0} all-gather(%z), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}
}
"""


def test_loops_count_as_often_as_they_run_and_slices_for_what_they_take():
    traffic = hlo.traffic(PROGRAM)
    assert [(c.kind, c.group, c.times, c.sent) for c in traffic.collectives] == [
        ("all-reduce", 2, 5.0, 64 * 4.0),  # 2 (n - 1) / n of it
        ("all-gather", 4, 1.0, 256 * 4 * 3 / 4),
    ]
    slices = 2 * 10 * 4 + 4
    assert traffic.stored == slices + 5 * 2 * 64 * 4 + 64 * 4 + 256 * 4


def test_the_compilers_own_text_is_read():
    @jax.jit
    def f(x, w):
        return jax.lax.scan(lambda c, _: (jax.numpy.tanh(c @ w), None), x, None, length=7)[0]

    compiled = f.lower(jax.ShapeDtypeStruct((8, 64), "float32"), jax.ShapeDtypeStruct((64, 64), "float32")).compile()
    traffic = hlo.traffic(compiled.as_text())
    assert traffic.stored >= 7 * 64 * 64 * 4  # the weights are read at every turn
    assert not traffic.collectives


def test_an_example_has_the_shapes_of_a_batch():
    config = load_config("configs/torso.py:smoke", [])
    from data_pipelines import frames

    keys = (*frames.KEYS, *frames.MOTION, *frames.PERTURBED, *frames.BLINKED)
    size, pncc = config.model.superres_fields.get("raw_resolution") * 4, config.data.pncc_size
    people = frames.examples("people", folder="", seed=0, size=size, pncc_size=pncc)
    drawn = frames.Frames(people, 0, pncc, keys)[0]
    assert_same(frames.like(keys, size, pncc), drawn)


def assert_same(empty, drawn):
    assert {k: (np.shape(v), np.asarray(v).dtype) for k, v in empty.items()} == {
        k: (np.shape(v), np.asarray(v).dtype) for k, v in drawn.items()
    }


def lying(shape, *axes):
    mesh = AbstractMesh((2, 2, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3)
    return jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, PartitionSpec(*axes)))


def test_activations_that_are_gathered_are_told_from_parameters():
    state = {"split": lying((512, 512), None, "fsdp"), "whole": lying((512, 1024))}
    found = [
        hlo.Collective("all-gather", shapes, 4, 1.0, times, name)
        for shapes, times, name in (
            ([(512, 512)], 3.0, "weights"),
            ([(262144,), (64,)], 1.0, "weights, flat, with metrics"),
            ([(64,)], 1.0, "metrics"),
            ([(8, 128, 128, 32)], 2.0, "rays"),
            # As large as a parameter that lies on every chip, which nothing has to gather.
            ([(512, 512), (4, 256, 512)], 1.0, "features"),
        )
    ]
    known, others = plan.gathers(hlo.Traffic(0.0, found), state)
    assert known == {"count": 4.0, "bytes": 4.0}
    assert [(g["shape"], g["source"]) for g in others] == [([8, 128, 128, 32], "rays"), ([4, 256, 512], "features")]
    assert [d["times"] for d in plan.dearest(hlo.Traffic(0.0, found), 2)] == [3.0, 2.0]


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_step_that_gathers_activations_is_found_out(everywhere):
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2}, plan.devices(chips.topology("v5e-4")))
    batch = NamedSharding(mesh, sharding.BATCH)
    w = jax.ShapeDtypeStruct((512, 512), "float32", sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp")))
    x = jax.ShapeDtypeStruct((64, 128, 512), "float32", sharding=batch)

    def step(w, x):
        def loss(w):
            y = jax.nn.gelu(x @ w)
            if everywhere:  # a constraint that no stage should have
                y = jax.lax.with_sharding_constraint(y, sharding.replicated(mesh))
            return jax.numpy.square(y @ w).mean()

        return w - jax.grad(loss)(w)

    text = jax.jit(step, out_shardings=w.sharding).lower(w, x).compile().as_text()
    known, others = plan.gathers(hlo.traffic(text), {"w": w})
    assert known["count"] > 0
    assert bool(others) == everywhere


def test_a_missing_compiler_is_told_with_the_command(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name in ("libtpu", "jax_cuda13_plugin") else real(name, *a),
    )
    assert cli.main(["plan", "--config", TOY, "--topology", "v5e-4"]) == 2
    assert f"pip install 'jax[tpu]=={jax.__version__}'" in capsys.readouterr().err
    assert cli.main(["plan", "--config", TOY, "--topology", "h100-8"]) == 2
    assert "pip install --no-deps jax-cuda13-plugin" in capsys.readouterr().err


COMPLAINT = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 52.84G of 15.75G hbm.

  Largest program allocations in hbm:

  1. Size: 16.00G
     Operator: op_name="jit(step)/render/gather" source_file="render.py" source_line=3
     Shape: f32[8,128,128,32]{3,2,1,0:T(8,128)}
     Unpadded size: 4.00G

  2. Size: 1.00M
     Operator: op_name="jit(step)/mul"
     Shape: bf16[512]{0}
"""


def test_the_compilers_complaint_is_understood():
    error = plan.DoesNotFitError(COMPLAINT, "mesh.fsdp=2")
    assert error.wanted == 52.84 * 2**30
    assert error.arrays == ["16.00G f32[8,128,128,32] of jit(step)/render/gather", "1.00M bf16[512] of jit(step)/mul"]
    assert (
        plan.DoesNotFitError("RESOURCE_EXHAUSTED: (52.84G) exceeds available HBM (15.75G)", "").wanted == 52.84 * 2**30
    )


def test_what_may_help_is_what_the_stage_has():
    config = load_config("configs/torso.py:smoke", [])
    assert plan._remedies(load_stage(config), config).startswith("mesh.spatial=2")
    config = load_config(TOY, ["remat=products"])
    assert plan._remedies(load_stage(config), config) == "accumulate=2, or dtype=bfloat16, or mesh.fsdp=2"


def test_the_search_ends_between_what_fits_and_what_does_not(monkeypatch):
    tried = []

    def step(config, topology, found, per_chip, name="", quick=False):
        tried.append(per_chip)
        wanted = 1000.0 + 90 * per_chip + per_chip**1.2
        if wanted > 3000:
            raise plan.DoesNotFitError(f"Used {wanted} of 3000 hbm", "")
        return made(per_chip, wanted)

    def made(per_chip, wanted):
        memory = {"state": 900.0, "code": 0.0, "total": wanted}
        return plan.Plan("", "", "", 1, {}, per_chip, memory, 3000.0, 1.0, 1.0, {}, [], {"compute": 1.0}, 0.0)

    monkeypatch.setattr(plan, "plan_step", step)
    start = made(2, 1000.0 + 180 + 2**1.2)
    plan._search(start, None, None, [], 8)
    assert start.refused == start.largest + 1
    assert 1000 + 90 * start.largest + start.largest**1.2 <= 3000
    assert len(tried) <= 4


def test_the_table_of_readme(tmp_path):
    memory = {"total": 3.0 * 2**30, "state": 1.0, "batch": 1.0, "temporary": 1.0, "code": 1.0}
    strange = [{"shape": [8, 4], "bytes": 2e6, "times": 1.0, "source": "rays"}]
    seconds = {"compute": 0.25, "memory": 0.125, "network": 0.0}
    made = plan.Plan(
        "configs/torso.py:full", "v5e-16", "TPU v5e", 16, {"data": 16}, 1, memory, 16.0 * 2**30, 5e13, 1e11,
        {"all-gather": {"count": 1, "bytes": 2e6}}, strange, seconds, 60.4,
    )  # fmt: skip
    told = plan.report(made)
    assert told.startswith("configs/torso.py:full on v5e-16 fits: 3.00 GiB of a chip's 16.00 GiB")
    assert "all-gathers of activations: 1, 2 MB sent\n    [8, 4], 2 MB, of rays" in told
    assert "250 ms a step, bound by arithmetic: 64 examples/s" in told
    (tmp_path / "torso-v5e-16.json").write_text(json.dumps(dataclasses.asdict(made)))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(readme, table.table(tmp_path))
    lines = readme.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and len({line.count("|") for line in lines[2:-2]}) == 1
    assert lines[4].startswith("| torso:full | v5e-16, 16 chips | 1 | 3.00 of 16.00 GiB | 50 | 100 | 2 | 250 ms |")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["img2plane", "motion2plane", "torso", "syncnet", "audio2motion"])
def test_a_full_config_is_planned_without_files(name, tmp_path):
    config = load_config(f"configs/{name}.py:full", [])
    assert stand_in(config, tmp_path)
    stage = load_stage(config)
    shapes = jax.eval_shape(stage.init, jax.random.key(0, impl="rbg"))
    assert sum(x.size for x in jax.tree.leaves(shapes.params)) > 1e7
    assert "example" in stage.example()


@needs_libtpu
@pytest.mark.slow
def test_the_toy_stage_is_planned_for_a_tpu(tmp_path, capfd):
    arguments = ["--topology", "v5e-4", "--tries", "0", "--batch", "4", "--json", str(tmp_path / "plan.json")]
    sizes = [f"--set=mesh.{k}=2" for k in ("data", "fsdp")]
    assert cli.main(["plan", "--config", TOY, *arguments, *sizes]) == 0
    told = capfd.readouterr()
    assert "fits" in told.out and "all-gathers of activations: none" in told.out
    assert "WARNING" not in told.err  # the compiler's own words at its start
    made = json.loads((tmp_path / "plan.json").read_text())
    assert made["fits"] and made["mesh"] == {"data": 2, "fsdp": 2, "spatial": 1} and not made["gathers"]
    assert {"all-reduce", "all-gather"} <= set(made["collectives"]) | {"all-gather"}
    config = load_config(TOY, ["batch_size=16"])
    shapes = jax.eval_shape(load_stage(config).init, jax.random.key(0, impl="rbg"))
    state = sum(x.size * 4 for x in jax.tree.leaves(shapes))
    assert state / 2 <= made["memory"]["state"] <= state  # part of it is split in two
    assert made["memory"]["batch"] == 4 * sum(np.asarray(x).nbytes for x in toy.example(0).values())


@needs_libtpu
@pytest.mark.slow
def test_the_gradient_penalty_of_the_discriminator_compiles_for_v5p():
    """In phases, its narrow convolutions made the compiler abort, and with it the process."""
    mesh = sharding.make_mesh({"data": 4}, plan.devices(chips.topology("v5p-8")))
    net, batch = DiscriminatorBlock(64), NamedSharding(mesh, sharding.BATCH)
    x = jax.ShapeDtypeStruct((4, 64, 64, 64), "float32", sharding=batch)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    everywhere = sharding.replicated(mesh)
    variables = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), shapes)

    def penalty(variables, x):
        slope = jax.grad(lambda x: jax.numpy.square(net.apply(variables, x)).sum())(x)
        return jax.numpy.square(slope).sum()

    with sharding.using(mesh):  # on another platform the block is made in another way
        text = jax.jit(jax.grad(penalty)).lower(variables, x).compile().as_text()
    assert "convolution" in text and hlo.traffic(text).stored > 4 * 64**3


def test_a_mesh_of_other_devices():
    with pytest.raises(InputError, match="does not hold 1 devices"):
        sharding.make_mesh({"data": 3}, jax.devices()[:1])
    assert sharding.make_mesh({"data": -1}, jax.devices()[:1]).shape["data"] == 1
