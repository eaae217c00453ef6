"""Comparisons of arms: known effects are found, and nothing where there is nothing."""

import functools

import numpy as np
import pytest
from scipy.stats import binom, mannwhitneyu, trim_mean

from rlhf_jax.report import sweep_aggregate
from rlhf_jax.report.decisions import paired_difference
from rlhf_jax.report.stats import estimate, iqm, iqm_present
from rlhf_jax.report.sweep_aggregate import aggregate, bands, drawn
from rlhf_jax.report.sweep_compare import compare, contrast, corrected

ONE = np.zeros(8)  # eight seeds of one instance


def draws(count, strata=1, effect=0.0, shared=0.0, seeds=8, start=0, heavy=False):
    """Pairs of arms; `shared` is what a seed does to one arm in all strata."""
    rng = np.random.default_rng(start)
    noise = (lambda size: rng.standard_t(3, size)) if heavy else rng.standard_normal
    for _ in range(count):
        seed = rng.standard_normal((seeds, 1))
        own = [shared * rng.standard_normal((seeds, 1)) for _ in range(2)]
        a, b = (seed + o + noise((seeds, strata)) for o in own)
        yield a + effect, b


@pytest.mark.parametrize(
    "count, case",
    [
        (1000, {}),
        (1000, {"strata": 6, "shared": 1.0}),
        (300, {"strata": 6}),
        (300, {"seeds": 4}),
        (300, {"heavy": True}),
    ],
)
def test_false_positives_are_as_rare_as_promised(count, case):
    blocks = np.zeros(case.get("seeds", 8))
    found = [compare(a, b, blocks) for a, b in draws(count, **case)]
    low, high = binom.ppf([0.005, 0.995], count, 0.05)
    rejected = sum(d.p <= 0.05 for d in found)
    assert (0 if case.get("heavy") else low) <= rejected <= high  # a t-test errs on the safe side
    assert sum(d.sure for d in found) <= high


@pytest.fixture
def p_alone(monkeypatch):
    """Intervals of few resamples, where only p is asked for."""
    quick = functools.partial(aggregate, reps=20)
    monkeypatch.setattr("rlhf_jax.report.sweep_compare.aggregate", quick)


def test_the_band_would_catch_a_test_that_forgets_that_seeds_are_shared(p_alone):
    """Pairs of a seed taken for independent, as many as there are strata: far too many finds."""
    high = binom.ppf(0.999, 300, 0.05)
    found = [compare(*_as_seeds(a, b), np.zeros(48)) for a, b in draws(300, 6, shared=1.0)]
    assert sum(d.p <= 0.05 for d in found) > 3 * high


def _as_seeds(a, b):
    return a.reshape(-1, 1), b.reshape(-1, 1)


def test_holm_keeps_the_chance_of_any_false_find(p_alone):
    """Four arms, six comparisons: at least one is wrong in at most one family of twenty."""
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(300):
        x = rng.standard_normal((4, 8, 1))
        pairs = [(i, j) for i in range(4) for j in range(i)]
        found = corrected([compare(x[i], x[j], ONE) for i, j in pairs])
        wrong += any(d.adjusted <= 0.05 for d in found)
    assert wrong <= binom.ppf(0.999, 300, 0.05)


def test_a_planted_effect_is_found_with_its_size():
    found = [compare(a, b, ONE) for a, b in draws(200, 6, effect=1.0, start=3)]
    covered = [d.estimate.low <= 1.0 <= d.estimate.high for d in found]
    assert np.mean([d.estimate.value > 0 for d in found]) == 1
    assert np.mean([d.sure for d in found]) > 0.85
    assert np.mean(covered) > 0.85  # of 0.95: percentile intervals of 8 seeds are too narrow
    assert np.mean([d.estimate.value for d in found]) == pytest.approx(1.0, abs=0.06)


def test_turning_arms_round_turns_the_answer_round():
    a, b = next(draws(1, 3, effect=0.5))
    one, other = compare(a, b, ONE), compare(b, a, ONE)
    ends = [other.estimate.value, other.estimate.high, other.estimate.low]
    assert [-x for x in one.estimate[:3]] == pytest.approx(ends)
    assert one.p == pytest.approx(other.p) and one.probability == 1 - other.probability


def test_in_one_stratum_it_is_the_protocol():
    """The same numbers as `estimate` and `paired_difference`, which agree with rliable."""
    a, b = next(draws(1, effect=0.5))
    assert aggregate(a, ONE)[:3] == pytest.approx(estimate(a)[:3], abs=1e-12)
    protocol, found = paired_difference(a, b), compare(a, b, ONE)
    assert found.estimate[:3] == pytest.approx(protocol.difference[:3])
    assert found.probability == protocol.probability


# As in test_stats.py: matrices [seeds, tasks], and what rliable 1.2.0 says of them; the interval is
# that of np.random.seed(11), get_interval_estimates({"x": A}, aggregate_iqm, reps=500).
A = np.random.RandomState(7).standard_normal((10, 5)) + np.arange(5)
B = np.random.RandomState(8).standard_normal((10, 5)) + np.arange(5) - 0.5
RLIABLE_IQM, RLIABLE_INTERVAL = 2.0285655475908793, (1.6547270954057418, 2.3261121498218067)


def test_an_arm_is_rliables_to_the_last_digit(monkeypatch):
    """Tasks as instances, and the resamples that rliable drew: seeds of each task by themselves."""
    drew = np.random.RandomState(11).randint(10, size=(500, 10, 5))
    rows = (drew + 10 * np.arange(5)).transpose(0, 2, 1).reshape(500, 50)
    monkeypatch.setattr(sweep_aggregate, "drawn", lambda blocks, reps, seed=0: rows)
    found = aggregate(A.T.reshape(-1, 1), np.repeat(np.arange(5), 10), reps=500)
    assert found.value == pytest.approx(RLIABLE_IQM, abs=1e-12)
    assert found.value == pytest.approx(trim_mean(A, 0.25, axis=None), abs=1e-12)
    assert found[1:3] == pytest.approx(RLIABLE_INTERVAL, abs=1e-12)


def test_the_probability_of_improvement_is_rliables():
    """Mann and Whitney's U over n m, averaged over tasks; ties half."""
    for a, b in ((A, B), (np.round(A), np.round(B))):
        u = [mannwhitneyu(x, y, use_continuity=False).statistic / 100 for x, y in zip(a.T, b.T)]
        found = compare(a, b, np.zeros(10)).probability
        assert found == pytest.approx(np.mean(u), abs=1e-12)


def test_instances_are_strata_of_seeds():
    """Seeds of several instances, in rows: drawn within their instance, as in the protocol."""
    x = np.random.default_rng(0).normal([0, 10, 20], 1.0, (5, 3))
    found = aggregate(x.T.reshape(-1, 1), np.repeat([0, 1, 2], 5))
    assert found[:3] == pytest.approx(estimate(x)[:3], abs=1e-12)


def test_seeds_are_drawn_whole():
    index = drawn(np.array(["a", "b", "a", "b", "b"]), 100)
    assert index.shape == (100, 5)
    assert set(index[:, :2].ravel()) == {0, 2} and set(index[:, 2:].ravel()) == {1, 3, 4}


def apart(a, b):
    """Both arms with seeds of their own, and the blocks of all."""
    hole = np.full_like(a, np.nan)
    return np.concatenate([a, hole]), np.concatenate([hole, b]), np.zeros(2 * len(a))


@pytest.mark.parametrize("case", [{}, {"strata": 3, "shared": 1.0}, {"seeds": 4}])
def test_false_positives_without_pairs(case):
    """Arms that share no seeds: what a seed does is drawn anew for each."""
    pairs = list(draws(600, **case, start=4))
    found = [compare(*apart(a, b)) for (a, _), (_, b) in zip(pairs[::2], pairs[1::2])]
    assert all(not d.paired and d.seeds == case.get("seeds", 8) for d in found)
    low, high = binom.ppf([0.001, 0.995], 300, 0.05)
    rejected = sum(d.p <= 0.05 for d in found)
    assert (0 if case.get("seeds") else low) <= rejected <= high  # with 4 seeds Welch is careful
    assert sum(d.sure for d in found) <= high


def test_a_planted_effect_is_found_without_pairs():
    found = [compare(*apart(*pair)) for pair in draws(60, 3, effect=3.0, start=5)]
    assert np.mean([d.sure for d in found]) > 0.9
    assert np.mean([d.estimate.value for d in found]) == pytest.approx(3.0, abs=0.15)
    a, b, blocks = apart(*next(draws(1, 3, effect=3.0)))
    one, other = compare(a, b, blocks), compare(b, a, blocks)
    assert one.estimate.value == -other.estimate.value and one.p == pytest.approx(other.p)


def test_without_pairs_all_that_is_left_is_counted():
    a, b, blocks = apart(*next(draws(1, 2, effect=5.0)))
    a[0] = -np.inf  # diverged
    b[15, 1] = np.nan  # missing
    found = compare(a, b, blocks, worst=-9.0)
    assert found.estimate.runs == 31 and found.estimate.not_finite == 2 and found.seeds == 8
    assert np.isnan(compare(a, b, np.repeat([0, 1], 8)).p)  # other instances: not comparable
    few = compare(a[:9], b[:9], blocks[:9])
    assert np.isnan(few.p) and few.paired and not few.estimate.runs


def test_few_pairs_of_many_seeds_are_compared_without_pairs():
    a, b = next(draws(1, effect=5.0))
    a[:3] = b[5:] = np.nan  # two seeds in common, five in each arm
    found = compare(a, b, ONE)
    assert not found.paired and found.sure and found.seeds == 5


def test_few_seeds_get_no_interval_and_no_test():
    a, b = next(draws(1, 4, effect=9.0, seeds=2))
    found = compare(a, b, np.zeros(2))
    assert found.estimate.value > 5 and np.isnan([*found.estimate[1:3], found.p]).all()
    assert not found.sure and not corrected([found])[0].clear
    assert np.isnan(bands(a[..., None], np.zeros(2))[1:]).all()


def test_missing_runs_go_with_their_partners():
    a, b = next(draws(1, 4, effect=1.0))
    a[0, 1] = b[3, 2] = np.nan
    a[7] = np.nan
    found = compare(a, b, ONE)
    assert found.estimate.runs == 32 - 6 and found.seeds == 7
    kept = ~np.isnan(a) & ~np.isnan(b)
    assert found.estimate.value == pytest.approx(iqm((a - b)[kept]))


def test_runs_that_diverged_count_against_their_arm():
    a, b = next(draws(1, 4, effect=3.0))
    a[0, 0] = -np.inf
    one = compare(a, b, ONE, worst=-5.0)
    assert one.estimate.not_finite == 1 and np.isfinite(one.estimate.value) and one.sure
    a[:4] = -np.inf
    assert compare(a, b, ONE, worst=-5.0).estimate.value < 0
    assert not compare(a, b, ONE, worst=-5.0).sure
    a[:] = b[:] = -np.inf  # a tie of the lost
    assert compare(a, b, ONE).estimate[:3] == (0, 0, 0) and compare(a, b, ONE).p == 1


def test_an_effect_without_spread_is_not_infinitely_sure():
    a = np.arange(8.0)[:, None]
    assert compare(a + 0.1, a, ONE).p == 2**-7
    assert compare(a, a, ONE).p == 1
    assert compare(a[:4] + 0.1, a[:4], ONE[:4]).p == 0.125


def test_a_contrast_of_nothing_and_of_something():
    a, b = next(draws(1, 4, effect=2.0))
    assert contrast(a - b, ONE).sure and not contrast(a - a, ONE).sure
    assert np.isnan(contrast(a - b, ONE).probability)


def test_iqm_of_what_is_present():
    x = np.random.default_rng(0).standard_normal((5, 13))
    assert iqm_present(x) == pytest.approx(iqm(x, axis=1))
    holed = np.concatenate([x, np.full((5, 4), np.nan)], axis=1)
    assert iqm_present(holed) == pytest.approx(iqm(x, axis=1))
    assert np.isnan(iqm_present(np.full(3, np.nan)))
    assert iqm_present([-np.inf, 1.0, 2.0, 3.0]) == 1.5


def test_bands_are_aggregates_of_each_point():
    x = np.random.default_rng(0).standard_normal((8, 3, 2))
    x[:, :, 1] = np.nan
    found = bands(x, ONE)  # as many resamples as the page says of all intervals
    assert found[:, 0] == pytest.approx(aggregate(x[..., 0], ONE)[:3])
    assert np.isnan(found[:, 1]).all()
