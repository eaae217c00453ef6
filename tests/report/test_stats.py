"""Aggregates and intervals: against rliable's numbers, by hand, and with runs that diverged."""

import functools

import numpy as np
import pytest

from rlhf_jax.report import stats

# From rliable 1.2.0 (arch 7.2.0, numpy 2.4.6, pandas 2.3), with these two matrices:
#   metrics.aggregate_iqm(x), metrics.probability_of_improvement(A, B), the same of np.round;
#   np.random.seed(11); library.get_interval_estimates({"x": x}, f, reps=500), which draws its
#   indices by np.random.choice(seeds, x.shape), a resample at a time.
A = np.random.RandomState(7).standard_normal((10, 5)) + np.arange(5)
B = np.random.RandomState(8).standard_normal((6, 5)) + np.arange(5) - 0.5
IQM = {"A": 2.0285655475908793, "B": 1.7344662763797531}
IMPROVEMENT, IMPROVEMENT_WITH_TIES = 0.5766666666666668, 0.5883333333333333
INTERVALS = {
    ("A", "iqm"): (1.6547270954057418, 2.3261121498218067),
    ("A", "mean"): (1.6143317096680991, 2.154492560399971),
    ("B", "iqm"): (1.201062460493218, 2.163170145492356),
}
MATRICES, STATISTICS = {"A": A, "B": B}, {"iqm": stats.iqm, "mean": np.mean}


def close(x):
    return pytest.approx(x, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", MATRICES)
def test_iqm_is_rliables(name):
    assert stats.iqm(MATRICES[name]) == close(IQM[name])
    assert np.mean(MATRICES[name]) != pytest.approx(IQM[name], abs=1e-3)  # and not the mean


def test_probability_of_improvement_is_rliables():
    assert stats.probability_of_improvement(A, B) == close(IMPROVEMENT)
    rounded = np.round(A), np.round(B)
    assert stats.probability_of_improvement(*rounded) == close(IMPROVEMENT_WITH_TIES)
    strict = np.mean(rounded[0][:, None] > rounded[1])  # what dropping the ties would give
    assert strict < IMPROVEMENT_WITH_TIES - 0.05


@pytest.mark.parametrize("name, statistic", INTERVALS)
def test_the_interval_is_rliables_under_its_resampling(name, statistic):
    x = MATRICES[name]
    drawn = np.random.RandomState(11).randint(len(x), size=(500, *x.shape))
    wanted = INTERVALS[name, statistic]
    indices = np.moveaxis(drawn, 2, 0)
    found = stats.estimate(x, STATISTICS[statistic], indices=indices)
    assert found[1:3] == close(wanted)
    own = stats.estimate(x, STATISTICS[statistic], reps=5000)
    assert own[1:3] == pytest.approx(wanted, abs=0.06)  # our own draws: the same up to chance
    assert own[1:3] != pytest.approx(wanted, abs=1e-6)


def test_iqm_by_hand():
    assert stats.iqm([9.0, 1.0, 2.0, 3.0, -50.0]) == 2.0  # a quarter of five is one
    assert stats.iqm([[4.0, 0.0], [6.0, 2.0]], axis=0).tolist() == [5.0, 1.0]
    assert stats.iqm([[4.0, 0.0], [6.0, 2.0]], axis=1).tolist() == [2.0, 4.0]
    with pytest.raises(ValueError, match="no runs"):
        stats.iqm([])


def test_a_diverged_run_is_refused_until_it_is_said_what_it_counts_as():
    x = A.copy()
    x[3] = np.nan
    with pytest.raises(ValueError, match="5 of 50 runs have no finite score"):
        stats.probability_of_improvement(x, B)
    with pytest.raises(ValueError, match="1 of 10 runs have no finite score"):
        stats.estimate(x)
    assert np.isnan(stats.iqm(x))


def test_a_diverged_run_is_counted_and_pulls_the_aggregate():
    x = A.copy()
    x[3] = np.nan
    good, bad = (stats.estimate(x, diverged=d) for d in (np.inf, -np.inf))
    left_out = stats.estimate(np.delete(x, 3, axis=0))
    assert good.not_finite == bad.not_finite == 5 and good.runs == 50
    assert bad.value < left_out.value < good.value
    assert left_out.not_finite == 0 and left_out.runs == 45


def test_more_than_a_quarter_diverged_is_no_number():
    x = np.ones((8, 2))
    x[:3] = np.inf
    assert stats.estimate(x, diverged=np.inf).value == np.inf
    x[2] = 1.0  # a quarter: trimmed away, but some resamples hold more
    found = stats.estimate(x, diverged=np.inf)
    assert (found.value, found.low, found.high) == (1.0, 1.0, np.inf)


def test_one_seed_has_no_interval():
    found = stats.estimate(A[:1])
    assert np.isfinite(found.value) and np.isnan([found.low, found.high]).all()
    assert np.isfinite(stats.estimate(A[:2])).all()


def test_instances_may_have_unequal_numbers_of_seeds():
    whole = stats.estimate(A)
    assert stats.estimate(list(A.T)) == whole
    ragged = stats.estimate([A[:7, 0], *A.T[1:]])
    assert ragged.runs == 47 and ragged != whole
    with pytest.raises(ValueError, match="seeds"):
        stats.estimate(A[0])


def test_the_same_seed_gives_the_same_interval_and_another_another():
    assert stats.estimate(A, seed=1) == stats.estimate(A, seed=1)
    assert stats.estimate(A, seed=1) != stats.estimate(A, seed=2)


def test_instances_are_not_resampled():
    """Instances that differ widen an interval only if they are drawn too."""
    x = A + 100 * np.arange(5)
    found = stats.estimate(x, np.mean)
    flat = x.ravel()[np.random.default_rng(0).integers(50, size=(2000, 50))].mean(axis=1)
    assert found.high - found.low < 1
    assert np.ptp(np.quantile(flat, [0.025, 0.975])) > 50


def test_improvement_needs_the_same_instances():
    with pytest.raises(ValueError, match="same instances"):
        stats.probability_of_improvement(A, B[:, :4])
    lost = np.full_like(B, np.nan)
    assert stats.probability_of_improvement(A, lost, diverged=-np.inf) == 1.0
    assert stats.probability_of_improvement(lost, lost, diverged=-np.inf) == 0.5


@functools.cache
def coverage(seeds, trials=400):
    """How often the 95 % interval holds the truth: eight instances with skewed scores."""
    rng = np.random.default_rng(3)
    scale = np.linspace(0.5, 2.0, 8)

    def draw(n):
        return scale * rng.gamma(3.0, size=(n, 8))

    truth = stats.iqm(draw(50_000))
    found = [stats.estimate(draw(seeds), reps=400, seed=k) for k in range(trials)]
    return np.mean([x.low < truth < x.high for x in found])


def test_the_interval_covers_as_often_as_it_says():
    assert 0.92 < coverage(32) < 0.97


def test_few_seeds_cover_less_than_they_say():
    assert coverage(3) < 0.92
