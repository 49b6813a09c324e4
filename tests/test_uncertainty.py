"""Intervals and tests: coverage on made-up data, scipy's values, Holm's textbook steps."""

import numpy as np
import pytest
from scipy import stats

from r3p.evaluate import uncertainty


def test_interval_of_independent_clips_is_the_textbooks():
    x = np.random.default_rng(0).normal(size=80)
    got = uncertainty.bootstrap_mean(x, [str(k) for k in range(80)])
    assert got.mean == pytest.approx(x.mean()) and got.clips == got.identities == 80
    half = 1.96 * x.std(ddof=1) / np.sqrt(80)
    assert got.low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert got.high == pytest.approx(x.mean() + half, abs=0.15 * half)
    assert uncertainty.bootstrap_mean(x, [str(k) for k in range(80)]) == got


def test_clips_of_one_person_are_no_independent_evidence():
    rng = np.random.default_rng(0)
    person = np.repeat(rng.normal(size=10), 20)
    x = person + 0.01 * rng.normal(size=200)
    who = [f"p{k // 20}" for k in range(200)]
    clustered = uncertainty.bootstrap_mean(x, who)
    naive = uncertainty.bootstrap_mean(x, [str(k) for k in range(200)])
    assert clustered.identities == 10
    assert clustered.high - clustered.low > 3 * (naive.high - naive.low)


def test_what_is_missing_does_not_count():
    got = uncertainty.bootstrap_mean([1.0, np.nan, 3.0], ["a", "b", "c"])
    assert got.mean == 2 and got.clips == 2
    alone = uncertainty.bootstrap_mean([1.0, 2.0], ["a", "a"])
    assert alone.mean == 1.5 and np.isnan(alone.low)
    assert uncertainty.bootstrap_mean([np.nan], ["a"]).clips == 0


def test_paired_equals_scipy():
    rng = np.random.default_rng(0)
    a = rng.normal(size=30)
    b = a + 0.3 + 0.2 * rng.normal(size=30)
    who = [str(k) for k in range(30)]
    got = uncertainty.paired(a, b, who)
    assert got.p == pytest.approx(stats.wilcoxon(a - b).pvalue)
    assert got.difference.low < got.difference.mean < got.difference.high < 0
    assert np.isnan(uncertainty.paired(a, a, who).p)


def test_holm():
    np.testing.assert_allclose(uncertainty.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(uncertainty.holm([0.5, np.nan, 0.9]), [1.0, np.nan, 1.0])


def test_any_statistic_can_be_resampled():
    x = np.random.default_rng(0).normal(size=40)
    who = [str(k) for k in range(40)]
    low, high = uncertainty.bootstrap(lambda k: float(x[k].mean()), who, resamples=2000)
    want = uncertainty.bootstrap_mean(x, who)
    assert low == pytest.approx(want.low, abs=0.05) and high == pytest.approx(want.high, abs=0.05)
