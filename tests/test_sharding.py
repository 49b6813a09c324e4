"""Meshes, rules and batches; `test_processes.py` runs them on several processes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from r3p import sharding
from r3p.errors import InputError
from r3p.state import TrainState

P = PartitionSpec


def mesh(data=1, fsdp=4, spatial=1):
    return AbstractMesh((data, fsdp, spatial), sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def state():
    params = {
        "net": {"kernel": jnp.zeros((3, 3, 16, 32)), "bias": jnp.zeros(32), "odd": jnp.zeros((3, 5))},
        "small": jnp.zeros(8),
    }
    stats = {"batch_stats": {"mean": jnp.zeros(32)}}
    opt = ({"mu": params, "nu": params}, jnp.zeros((), jnp.int32))
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, model_state=stats, opt_state=opt,
        average={"params": params, **stats},
    )  # fmt: skip


def specs(rules=(), least=1, **sizes):
    return jax.tree.map(lambda s: s.spec, sharding.shard_state(state(), mesh(**sizes), rules, least))


def test_the_largest_axis_that_divides_is_split_and_moments_follow():
    found = specs(least=20)
    for part in (found.params, found.opt_state[0]["mu"], found.average["params"]):
        assert part["net"] == {"kernel": P(None, None, None, "fsdp"), "bias": P("fsdp"), "odd": P()}
        assert part["small"] == P()  # fewer than 20 elements
    assert found.step == P() and found.model_state["batch_stats"]["mean"] == P("fsdp")


def test_the_first_rule_that_finds_a_name_decides():
    rules = (("^net/kernel", (None, None, ("data", "fsdp"))), ("^net", "whole"))
    found = specs(rules, data=2)
    assert found.params["net"] == {"kernel": P(None, None, ("data", "fsdp")), "bias": P(), "odd": P()}
    assert found.opt_state[0]["nu"]["net"]["kernel"] == P(None, None, ("data", "fsdp"))
    assert found.params["small"] == P("fsdp")


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (("kernle$", "whole"), r"'kernle\$' decides about none of the 4 parameters.*net/bias"),
        (("kernel$", ("fsdp",)), r"an axis of 3 of net/kernel \[3, 3, 16, 32\] into 4 parts"),
        (("bias$", (None, "fsdp")), r"names 2 axes, but net/bias is \[32\]"),
        (("bias$", ("rays",)), "names a mesh axis 'rays': choose of data, fsdp, spatial"),
        (("bias$", "split"), "says 'split'"),
    ],
)
def test_a_bad_rule_is_told_with_its_numbers(rule, told):
    with pytest.raises(InputError, match=told):
        specs((rule,))


def test_a_mesh_that_does_not_hold_the_devices():
    count = jax.device_count()
    assert sharding.make_mesh({"data": -1, "fsdp": 1}).shape == {"data": count, "fsdp": 1, "spatial": 1}
    with pytest.raises(InputError, match=f"data 3, fsdp 5, spatial 1 does not hold {count} devices"):
        sharding.make_mesh({"data": 3, "fsdp": 5})
    with pytest.raises(InputError, match=f"data -1, fsdp 7, spatial 1 does not hold {count} devices"):
        sharding.make_mesh({"data": -1, "fsdp": 7})
    with pytest.raises(InputError, match="no axis 'model'"):
        sharding.make_mesh({"model": 2})


def test_rows_of_a_process_are_consecutive_on_a_torus():
    # 4 x 4 chips, each machine a square of 4
    class Chip:
        def __init__(self, y, x):
            self.place, self.process_index = (y, x), 2 * (y // 2) + x // 2

    chips = np.array([[Chip(y, x) for x in range(4)] for y in range(4)], object)
    for shape in ((16, 1, 1), (4, 4, 1), (8, 1, 2)):
        ordered = sharding.by_process(chips.reshape(shape))
        assert [c.process_index for c in ordered[..., 0].ravel()] == sorted(
            c.process_index for c in ordered[..., 0].ravel()
        )
        assert {c.place for c in ordered.ravel()} == {c.place for c in chips.ravel()}


def test_a_batch_that_does_not_divide():
    with pytest.raises(InputError, match="batch of 12 does not divide among 16 = data 2 x fsdp 4 x accumulate 2: set "
                                         "batch_size to 16 or 32"):  # fmt: skip
        sharding.check_batch(12, mesh(data=2), 2)


def test_the_state_is_described():
    line = sharding.describe(state(), sharding.shard_state(state(), mesh(), (), 1))
    assert "mesh data 1 x fsdp 4 x spatial 1" in line and "of it on each device" in line


def test_rays_stay_where_they_are_without_a_spatial_axis():
    x = np.zeros((2, 5, 3))
    assert sharding.split_rays(x) is x
    with sharding.using(mesh(spatial=4)), pytest.raises(InputError, match="5 rays at a time do not divide"):
        sharding.split_rays(x)
