"""Groups of parameters with rates of their own, and the adversary: who learns when."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import drawn, quick_jit

from configs import img2plane, motion2plane, torso
from r3p import schedules, state
from r3p.errors import InputError
from r3p.models.discriminator import Discriminator
from r3p.stages import adversary, parts
from r3p.stages.adversary import Adversary, Shown
from r3p.stages.draws import Draws
from r3p.stages.img2plane import shows_source

PARAMS = {"img2plane": {"kernel": jnp.ones((2, 2))}, "decoder": jnp.ones(3), "discriminator": jnp.ones(4)}
GROUPS = (("^img2plane/", "img2plane"), ("^decoder", "decoder"), ("^discriminator", "discriminator"))


def optimizer(rates, groups=GROUPS, clip_norm=1e9):
    return state.grouped_adam(
        PARAMS, groups, rates, betas={"": (0.0, 0.99)}, clip_norm=clip_norm, apart=("discriminator",)
    )


def steps(adam, count, grads=PARAMS, **options):
    now = state.create({"params": PARAMS, "frozen": {"x": jnp.ones(2)}}, adam, unaveraged=("frozen", "discriminator"))
    seen = [now]
    for _ in range(count):
        seen.append(state.apply_gradients(seen[-1], grads, seen[-1].model_state, adam, options.get("decay", 0.5)))
    return seen


def test_groups_start_when_their_rate_does_and_step_like_new():
    def rates(n):
        late = jnp.where(n >= 3, 0.2, 0.0)
        return {"img2plane": jnp.float32(0.1), "decoder": late, "discriminator": jnp.float32(0.05)}

    seen = steps(optimizer(rates), 5)
    for n in range(3):
        np.testing.assert_array_equal(seen[n + 1].params["decoder"], PARAMS["decoder"])
    # Adam of equal gradients steps by its rate each time, the first time too, however late that is.
    moved = [float((a.params["decoder"] - b.params["decoder"])[0]) for a, b in pairwise(seen[3:])]
    np.testing.assert_allclose(moved, 0.2, rtol=1e-4)
    np.testing.assert_allclose(seen[5].params["img2plane"]["kernel"], 1 - 0.5, rtol=1e-4)


def test_what_is_in_no_group_is_never_trained_and_has_no_moments():
    adam = optimizer(lambda n: {"decoder": jnp.float32(0.1)}, GROUPS[1:2])
    last = steps(adam, 2)[-1]
    np.testing.assert_array_equal(last.params["img2plane"]["kernel"], PARAMS["img2plane"]["kernel"])
    assert sum(x.size for x in jax.tree.leaves(last.opt_state) if x.ndim) == 2 * PARAMS["decoder"].size
    with pytest.raises(InputError, match="encoder"):
        optimizer(lambda n: {}, (("^encoder", "x"),))


def test_norms_are_clipped_among_those_who_learn_together():
    def rates(n):
        return {"img2plane": jnp.float32(1.0), "decoder": jnp.float32(0.0), "discriminator": jnp.float32(1.0)}

    grads = {
        "img2plane": {"kernel": jnp.full((2, 2), 3.0)},
        "decoder": jnp.full(3, 1e6),
        "discriminator": jnp.full(4, 0.1),
    }
    after = steps(optimizer(rates, clip_norm=1.0), 1, grads)[-1]

    def squares(group, leaf):
        moments = after.opt_state["groups"][group].inner_state.nu
        return jnp.sqrt(sum(jnp.sum(x) for x in jax.tree.leaves(moments)) / 0.01), leaf

    # 3, 3, 3, 3 has norm 6 and is clipped to 1; the resting decoder counts in no norm; 0.1 * 4 is short enough.
    assert squares("img2plane", "kernel")[0] == pytest.approx(1.0, rel=1e-4)
    assert squares("discriminator", "")[0] == pytest.approx(0.2, rel=1e-4)


def test_the_average_leaves_out_the_adversary_and_what_is_frozen():
    last = steps(optimizer(lambda n: {k: jnp.float32(0.1) for _, k in GROUPS}), 1)[-1]
    assert set(last.average) == {"params"} and set(last.average["params"]) == {"img2plane", "decoder"}
    np.testing.assert_allclose(last.average["params"]["decoder"], 0.1 * 1 + 0.9 * last.params["decoder"], rtol=1e-5)
    exact = steps(optimizer(lambda n: {k: jnp.float32(0.1) for _, k in GROUPS}), 3, decay=0.0)[-1]
    np.testing.assert_array_equal(exact.average["params"]["decoder"], exact.params["decoder"])


# ------------------------------------------------------------------------------------------------ the stages' schedules
def moving(module, mode, step, **changes):
    """Which parts of a stage's model are trained at a step of the schedule, by its own optimiser settings."""
    from r3p.stages import motion2plane as head

    config = module.get_config(mode)
    config.update(changes)
    params = {k: {"w": jnp.ones(2)} for k in ("img2plane", "adapter", "decoder", "superres", "discriminator")}
    groups, rates = {
        img2plane: (head.GROUPS, lambda n: {**schedules.image_to_plane_rates(n), "adapter": jnp.float32(0)}),
        motion2plane: (head.GROUPS, lambda n: head.rates(config, n)),
        torso: ((("^superres/", "superres"),), schedules.torso_rates),
    }[module]
    judge = Adversary(fields=dict(widths=(4, 4)), start=config.adversary.start, lead=config.adversary.lead,
                      penalty=1.0, penalty_every=16, frame_size=8)  # fmt: skip
    config.pace = 1
    adam = parts.optimizer(config, params, groups, rates, judge)
    opt_state = adam.init(params)
    updates, _ = adam.update(params, {**opt_state, "count": jnp.int32(step)}, params)
    return {k for k, v in updates.items() if bool((v["w"] != 0).any())}


def test_who_learns_when():
    every = {"img2plane", "decoder", "superres"}
    assert moving(img2plane, "full", 100) == {"img2plane", "discriminator"}
    assert moving(img2plane, "full", 2_000) == {"img2plane", "decoder", "discriminator"}
    assert moving(img2plane, "full", 30_000) == every | {"discriminator"}
    assert moving(motion2plane, "full", 100) == {"img2plane", "adapter"}
    assert moving(motion2plane, "full", 40_000) == every | {"adapter"}
    assert moving(motion2plane, "full", 100_000) == {"adapter", "decoder", "superres"}
    assert moving(motion2plane, "full", 195_000) == {"adapter", "decoder", "superres", "discriminator"}
    assert moving(motion2plane, "full", 200_000) == {"superres", "discriminator"}
    assert moving(motion2plane, "full", 200_000, decoder_always=True) == {"decoder", "superres", "discriminator"}
    assert moving(motion2plane, "full", 200_000, two_stage=False) == {"adapter", "decoder", "superres", "discriminator"}
    assert moving(motion2plane, "full", 40_000, frozen=("^img2plane",)) == {"adapter", "decoder", "superres"}
    assert moving(torso, "full", 100) == {"superres"}
    assert moving(torso, "full", 30_000) == {"superres", "discriminator"}


def test_the_source_is_shown_seldom_at_first():
    config = img2plane.get_config("full")

    def share(start):
        return np.mean([bool(shows_source(jnp.int32(n), jnp.int32(n), config)) for n in range(start, start + 20)])

    assert [share(n) for n in (0, 29_000, 30_000, 35_000)] == [0.2, 0.2, 0.5, 1.0]


# ------------------------------------------------------------------------------------------------ the adversary
FIELDS = {"widths": (4, 6, 8), "mapping_depth": 2, "mapping_width": 8}


def shown(seed):
    rng = np.random.default_rng(seed)
    image, raw = (rng.uniform(-1, 1, (2, side, side, 3)).astype(np.float32) for side in (16, 8))
    return Shown(image, raw, rng.standard_normal((2, 25), dtype=np.float32))


@pytest.fixture(scope="module")
def judge():
    made = Adversary(fields=FIELDS, start=8, lead=4, penalty=5.0, penalty_every=2, frame_size=16)
    return made, drawn(Discriminator(**FIELDS), *shown(0))["params"]


def test_the_adversary_plays_from_its_start(judge):
    made, params = judge
    draws = Draws(jnp.arange(2), jax.random.key(0))
    fool = quick_jit(jax.value_and_grad(lambda s, n: made.fool(params, s, draws, n, "mv")))
    before, after = fool(shown(1), 7), fool(shown(1), 8)
    assert before[0] == 0 and not any(np.any(g) for g in before[1])
    logits = Discriminator(**FIELDS).apply({"params": params}, *shown(1), draws.normal("fool mv", (25,)))
    np.testing.assert_allclose(after[0], np.log1p(np.exp(-np.asarray(logits))).mean(), rtol=1e-5)
    assert np.any(after[1].image) and np.any(after[1].raw)


def test_the_adversary_learns_to_tell(judge):
    made, params = judge
    draws = Draws(jnp.arange(2), jax.random.key(0))
    real, fake = {"mv": shown(2)}, {"mv": shown(3), "ref": shown(4)}
    learn = quick_jit(lambda p, n, there: made.learn(p, real, fake, draws, n, {"ref": there}))
    resting, values = learn(params, 3, True)
    assert not any(np.any(g) for g in jax.tree.leaves(resting)) and not any(values.values())
    grads, values = learn(params, 4, True)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads)) and values["d_r1"] > 0
    without, fewer = learn(params, 5, False)
    assert fewer["d_r1"] == 0 and fewer["d_fake"] < values["d_fake"] and fewer["d_real"] == values["d_real"]
    moved = jax.tree.map(lambda p, g: p - 1e-2 * g / (1e-6 + jnp.linalg.norm(g)), params, without)
    after = learn(moved, 5, False)[1]
    assert after["d_real"] + after["d_fake"] < fewer["d_real"] + fewer["d_fake"]


def test_a_discriminator_of_another_size_is_refused():
    with pytest.raises(InputError, match="for images of 16 pixels"):
        Adversary(fields=FIELDS, start=0, lead=0, penalty=1.0, penalty_every=16, frame_size=64)
    config = torso.get_config("smoke").adversary
    config.start = -1
    assert adversary.make(config, 64) is None
