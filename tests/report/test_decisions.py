"""Better, the same, or a trend: each with an arm for which the answer is no."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from rlhf_jax.report.decisions import holm, paired_difference, tost, trend


def arms(effect, noise=0.1, seeds=16):
    """Two arms that share what a seed does to them, which is much more than the effect."""
    rng = np.random.default_rng(5)
    shared = rng.standard_normal((seeds, 8))
    return shared + effect + noise * rng.standard_normal((seeds, 8)), shared


def test_pairing_sees_what_seeds_hide():
    a, b = arms(0.1)
    paired = paired_difference(a, b).difference
    shuffled = paired_difference(a, np.random.default_rng(0).permuted(b, axis=0)).difference
    assert 0.05 < paired.low < 0.1 < paired.high < 0.15
    assert shuffled.low < 0 < shuffled.high  # the same runs without their partners


def test_greater_needs_the_interval_and_three_of_four_runs():
    a, b = arms(2.0)
    clear, back, slight = (paired_difference(*x) for x in ((a, b), (b, a), arms(0.1)))
    assert clear.greater and clear.p < 0.01 and clear.probability > 0.9
    assert not back.greater and back.difference.high < 0
    assert slight.difference.low > 0 and slight.probability < 0.75 and not slight.greater


def test_no_effect_is_not_found():
    same = paired_difference(*arms(0.0))
    assert same.difference.low < 0 < same.difference.high and same.p > 0.05
    equal = paired_difference(arms(0.0)[1], arms(0.0)[1])
    assert equal.difference[:3] == (0, 0, 0) and equal.p == 1 and equal.probability == 0.5


def test_the_negative_of_the_difference_is_that_of_the_arms_changed_round():
    a, b = arms(0.1)
    one, other = paired_difference(a, b), paired_difference(b, a)
    ends = [one.difference.value, one.difference.low, one.difference.high]
    expected = [other.difference.value, other.difference.high, other.difference.low]
    assert ends == pytest.approx([-x for x in expected], abs=1e-12)
    assert one.p == other.p and one.probability == pytest.approx(1 - other.probability)


def test_diverged_pairs():
    a, b = arms(0.1)
    a[0, :2] = np.nan
    b[0, 1] = np.nan
    with pytest.raises(ValueError, match="2 of 128"):
        paired_difference(a, b)
    found = paired_difference(a, b, diverged=-np.inf)
    assert found.difference.not_finite == 3 and found.difference.low > 0
    a[:] = np.nan  # against an arm that finished, and against another that did not
    assert paired_difference(a, b, diverged=-np.inf).difference.high == -np.inf
    assert paired_difference(a, a, diverged=-np.inf).difference[:3] == (0, 0, 0)


def test_arms_that_diverge_on_both_sides_are_no_finding():
    a, b = arms(0.1)
    a[:8], b[8:] = np.nan, np.nan
    found = paired_difference(a, b, diverged=-np.inf)
    assert np.isnan(found.difference.value) and not found.greater and found.p > 0.9
    assert not tost(found, 10.0).equivalent and tost(found, 10.0).p > 0.9


def test_one_seed_decides_nothing():
    a, b = arms(2.0, seeds=1)
    found = paired_difference(a, b)
    assert not found.greater and found.p == 1 and tost(found, 10.0) == (1.0, False)
    with pytest.raises(ValueError, match="equal shapes"):
        paired_difference(*arms(0.1)[:1], np.ones((2, 8)))


def test_equivalence_is_shown_and_absence_of_a_finding_is_not_it():
    close, unsure = (paired_difference(*arms(0.0, noise)) for noise in (0.1, 5.0))
    assert unsure.p > 0.05 and close.p > 0.05  # neither differs significantly
    assert tost(close, 0.1).equivalent and tost(close, 0.1).p < 0.025
    assert not tost(unsure, 0.1).equivalent and tost(unsure, 0.1).p > 0.025
    different = paired_difference(*arms(0.2))
    assert not tost(different, 0.1).equivalent and tost(different, 0.4).equivalent
    assert tost(different, 0.1).p > 0.9  # of its two tests the one that fails
    with pytest.raises(ValueError, match="positive"):
        tost(close, 0.0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0] and holm([]).tolist() == []
    bonferroni = np.array([0.01, 0.04, 0.03, 0.005]) * 4
    assert (holm([0.01, 0.04, 0.03, 0.005]) <= bonferroni).all()
    for wrong in ([-0.1], [np.nan], [[0.1]]):
        with pytest.raises(ValueError, match="0 to 1"):
            holm(wrong)


def test_holm_keeps_the_rate_of_false_findings():
    p = np.random.default_rng(0).random((4000, 8))
    found = np.mean([holm(row).min() < 0.05 for row in p])
    assert found == pytest.approx(0.05, abs=0.01)
    assert np.mean(p.min(axis=1) < 0.05) > 0.3  # without it


# Hollander and Wolfe's pieces finished by workers with no, rough and accurate information.
PIECES = [[40, 35, 38, 43, 44, 41], [38, 40, 47, 44, 40, 42], [48, 40, 45, 43, 46, 44]]


def test_trend_is_the_textbooks():
    found = trend(PIECES)
    assert found.statistic == 79.0 and found.z == pytest.approx(2.02, abs=0.02)
    back = trend(PIECES[::-1])
    assert back.z == pytest.approx(-found.z) and back.p == pytest.approx(1 - found.p)
    assert trend([PIECES[0], PIECES[0], PIECES[0]]).p > 0.4


def test_trend_of_two_groups_is_mann_and_whitneys():
    other = mannwhitneyu(
        PIECES[2], PIECES[0], alternative="greater", method="asymptotic", use_continuity=False
    )
    assert trend([PIECES[0], PIECES[2]]).p == pytest.approx(other.pvalue, abs=1e-12)


def test_the_trends_variance_with_ties_is_that_of_permutations():
    rng, sizes = np.random.default_rng(0), [3, 6]
    scores = np.array([1, 1, 1, 2, 2, 3, 4, 4, 5, 5, 5, 6.0])
    drawn = [trend(np.split(rng.permutation(scores), sizes)) for _ in range(3000)]
    z = np.array([x.z for x in drawn])
    assert z.mean() == pytest.approx(0, abs=0.06) and z.std() == pytest.approx(1, abs=0.04)


def test_a_trend_that_cannot_be_asked_for():
    for groups in ([[1.0, 2.0]], [[1.0], []]):
        with pytest.raises(ValueError, match="two groups"):
            trend(groups)
    with pytest.raises(ValueError, match="differ"):
        trend([[1.0], [1.0]])
    with pytest.raises(ValueError, match="no finite score"):
        trend([[1.0], [np.nan]])
    assert trend([[1.0, 2.0], [3.0, np.nan]], diverged=np.inf).statistic == 4.0
