"""Values and gradients of ours equal the peers' own code on the same random inputs."""

import numpy as np
import pytest

from .asking import version
from .cases import TOLERANCE, Gap, compare, evaluate, inputs, relative_difference
from .comparisons import clips, preferences, rlax, tokens
from .draws import DRAWS
from .registry import CASES, DIFFERENCES
from .table import PAGE

pytestmark = pytest.mark.parity
QUESTIONS = [
    pytest.param(case, dtype, id=f"{case.id} [{dtype}]") for case in CASES for dtype in case.dtypes
]


@pytest.mark.parametrize("case, dtype", QUESTIONS)
def test_ours_equals_the_peers(case, dtype, answer):
    theirs = answer(case, dtype)
    gap = compare(evaluate(case, dtype), theirs, case.terms)
    assert gap.value < TOLERANCE[dtype], gap
    assert gap.gradient is None or gap.gradient < TOLERANCE[dtype], gap
    assert (gap.gradient is None) == (not case.wrt)


def test_the_page_lists_every_comparison_and_difference():
    page = PAGE.read_text()
    for case in CASES:
        for dtype in case.dtypes:
            names = f"| `{case.ours}` | `{case.theirs}` | {version(case.peer)} | {dtype} |"
            assert names in page, f"{names}: run python -m tests.parity.table"
    for case in DIFFERENCES:
        assert case.title in page and case.right in page, case.title


def case_of(ours):
    return next(case for case in CASES if case.ours == ours)


WRONG = [  # a formula that looks like the right one, per peer
    ("gae + values", rlax.advantages),
    ("ppo_clip_loss, sequence_mean", clips.clipped("bnpo")),
    ("masked_var, ddof=1", tokens.masked_var),
    ("kto_loss", lambda kl_mask, **rest: preferences.kto(kl_mask=~kl_mask, **rest)),
]


@pytest.mark.parametrize("ours, wrong", WRONG, ids=[ours for ours, _ in WRONG])
def test_a_wrong_formula_is_seen(ours, wrong, answer):
    case = case_of(ours)
    theirs = answer(case, "float32")
    gap = compare(evaluate(case, "float32", wrong), theirs, case.terms)
    assert gap.value > 1e-3 or gap.gradient > 1e-3


def test_draws_are_many_ragged_and_differ():
    assert DRAWS >= 20
    for case in CASES:
        masks = [x for name, x in inputs(case, "float32").items() if name.endswith("mask")]
        for mask in masks:
            counts = mask.reshape(DRAWS, -1).sum(1)
            assert len(np.unique(counts)) > 3 and counts.min() > 0


def test_cases_are_told_apart_by_their_ids():
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "ours, theirs, least, expected",
    [
        ([[1.0, 2.0]], [[1.0, 4.0]], 0.0, 0.5),
        ([[1.0, 2.0]], [[1.0, 4.0]], 8.0, 0.25),
        ([[0.5], [3.0]], [[0.0], [3.0]], 0.0, 0.5),  # of 0, the difference itself
        ([[1.0], [3.0]], [[1.0], [2.0]], 0.0, 0.5),  # the worst draw
        ([[np.nan, 1.0]], [[1.0, 1.0]], 0.0, np.nan),
        ([[1.0, 1.0]], [[1.0, np.nan]], 0.0, np.nan),
    ],
)
def test_relative_difference_by_hand(ours, theirs, least, expected):
    found = relative_difference(np.array(ours), np.array(theirs), least)
    np.testing.assert_equal(found, expected)


def test_nan_passes_no_tolerance():
    x, nan = np.ones((2, 1)), np.array([[1.0], [np.nan]])
    for ours, theirs in [(x, nan), (nan, x), (nan, nan)]:
        gap = compare({"value": ours}, {"value": theirs})
        assert not gap.value < 1.0
    gap = compare({"value": x, "grad_a": nan, "grad_b": x}, {"value": x, "grad_a": x, "grad_b": x})
    assert gap.value == 0 and not gap.gradient < 1.0
    assert compare({"value": x}, {"value": x}) == Gap(0.0, None)


def test_the_scale_is_of_the_value_only():
    scale, grad = np.full(2, 10.0), np.full((2, 1), 0.1)
    ours = {"value": np.full(2, 1.0), "scale": scale, "grad_a": grad}
    gap = compare(ours, {"value": np.full(2, 2.0), "grad_a": 2 * grad})
    assert (gap.value, gap.gradient) == (0.1, 0.5)
    assert compare(ours, {"value": np.full(2, 2.0), "grad_a": 2 * grad}, terms=1.0).gradient == 0.1
