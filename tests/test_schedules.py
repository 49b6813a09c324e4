"""Schedules against those recorded from the official trainings, and at their corners."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from r3p import schedules


def test_matches_official():
    case = "losses"
    meta, _, recorded = parity.load_case(case)
    steps = jnp.asarray(recorded["steps"])

    def columns(rates):
        return np.stack(list(rates.values()), -1)

    values = {
        "kl_annealing_0.02": schedules.cyclic_weight(steps, top=0.02),
        "lr_secc": columns(schedules.head_rates(steps)),
        "lr_torso": columns(schedules.torso_rates(steps)),
        "lr_img2plane": columns(schedules.image_to_plane_rates(steps)),
        "lr_syncnet": schedules.syncnet_rate(steps)[:, None],
        "lr_a2m": schedules.audio_to_motion_rate(steps)[:, None],
    }
    assert values.keys() == {n for n in recorded if n.startswith(("kl_annealing", "lr_"))}
    for name, value in values.items():
        parity.check(case, meta, recorded, name, value)
        # rates differ by orders of magnitude: every single one, not their norm alone
        np.testing.assert_allclose(value, recorded[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "rates",
    [
        schedules.head_rates,
        schedules.torso_rates,
        schedules.image_to_plane_rates,
        schedules.syncnet_rate,
        schedules.audio_to_motion_rate,
        schedules.cyclic_weight,
    ],
)
def test_traced_steps_give_the_same(rates):
    for step in (0, 1, 7_000, 69_999, 70_000):
        traced = jax.jit(rates)(jnp.int32(step))
        for a, b in zip(jax.tree.leaves(traced), jax.tree.leaves(rates(step)), strict=True):
            assert a.dtype == jnp.float32 and a.shape == ()
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_frozen_groups_and_other_settings():
    frozen = functools.partial(schedules.head_rates, image_to_plane_stop=0)
    assert frozen(0)["img2plane"] == frozen(50_000)["img2plane"] == 0
    early = schedules.image_to_plane_rates(1_500, adversarial_start=1_000)
    assert early["decoder"] == early["superres"] == early["img2plane"] > 0
    assert schedules.cyclic_weight(15, top=1.0, ramp=10, hold=2) == pytest.approx(0.3)
