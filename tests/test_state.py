import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from r3p import state
from r3p.errors import InputError

PARAMS = {"canonical": jnp.ones(3), "net": {"kernel": jnp.ones((2, 2))}}


def settings(**changes):
    fields = dict(learning_rate=0.1, warmup_steps=0, steps=10, final_factor=0.1, beta1=0.9, beta2=0.99, clip_norm=1.0)
    return ConfigDict(fields | changes)


def one_step(config):
    optimizer = state.make_optimizer(config, PARAMS)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    return state.apply_gradients(state.create({"params": PARAMS}, optimizer), grads, {}, optimizer, 0.5)


def test_a_factor_scales_the_step_and_zero_freezes():
    after = one_step(settings(learning_rate_factors=(("^canonical", 0.5),)))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.params, PARAMS)
    assert moved["canonical"] == pytest.approx(0.5 * moved["net"]["kernel"], rel=1e-4)
    frozen = one_step(settings(learning_rate_factors=(("kernel$", 0),)))
    assert (frozen.params["net"]["kernel"] == 1).all()
    assert (frozen.params["canonical"] != 1).all()


def test_what_is_steady_keeps_its_rate_while_the_others_fall():
    def distances(steps):
        config = settings(learning_rate_factors=(("^canonical", 0.5),), steady=("^canonical",))
        optimizer = state.make_optimizer(config, PARAMS)
        now = state.create({"params": PARAMS}, optimizer)
        for _ in range(steps):
            before = now.params
            now = state.apply_gradients(now, jax.tree.map(jnp.ones_like, PARAMS), {}, optimizer, 0.5)
        return jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), now.params, before)

    first, last = distances(1), distances(10)
    assert last["canonical"] == pytest.approx(first["canonical"], rel=1e-3)
    assert last["net"]["kernel"] < 0.2 * first["net"]["kernel"]


def test_the_average_follows_the_parameters():
    after = one_step(settings())
    assert jnp.allclose(after.average["params"]["canonical"], 0.1 + 0.9 * after.params["canonical"])
    assert int(after.step) == 1


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(InputError, match="kernle"):
        state.make_optimizer(settings(learning_rate_factors=(("kernle", 0),)), PARAMS)


def test_a_warm_up_as_long_as_the_schedule_is_an_error():
    with pytest.raises(InputError, match="warmup_steps is 10"):
        state.make_schedule(settings(warmup_steps=10))


def test_packed_parameters_come_back():
    pack, unpack = state.packing(PARAMS, (("^canonical", "planes"),), "others")
    vectors = pack(PARAMS)
    assert {k: v.shape for k, v in vectors.items()} == {"planes": (3,), "others": (4,)}
    doubled = unpack(jax.tree.map(lambda v: 2 * v, vectors))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == 2 * b).all()), doubled, PARAMS))
