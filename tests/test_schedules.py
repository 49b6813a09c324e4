"""Schedules against those recorded from the official trainings, and at their corners."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from r3p import schedules
from r3p.parity.teachers import schedule_values


def test_every_rate_is_the_official_one():
    """Rates differ by orders of magnitude: every single one, not their norm alone as the golden case has it."""
    recorded = parity.FOLDER.case("losses").recorded
    values = schedule_values(jnp.asarray(recorded["steps"]))
    assert values.keys() == {n for n in recorded if n.startswith(("kl_annealing", "lr_"))}
    for name, value in values.items():
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
