"""Where we differ on purpose, we differ as we say: by the bridge, or as expected."""

import pytest

from .cases import TOLERANCE, compare, evaluate
from .registry import DIFFERENCES

pytestmark = pytest.mark.parity
QUESTIONS = [
    pytest.param(case, dtype, id=f"{case.id} [{dtype}]")
    for case in DIFFERENCES
    for dtype in case.dtypes
]
BRIDGED = [q for q in QUESTIONS if q.values[0].bridge]
EXPECTED = [q for q in QUESTIONS if q.values[0].expect]


@pytest.mark.parametrize("case, dtype", BRIDGED)
def test_only_the_bridge_separates_us(case, dtype, answer):
    theirs = answer(case, dtype)
    apart = compare(evaluate(case, dtype), theirs, case.terms)
    assert apart.value > 1e-3
    gap = compare(evaluate(case, dtype, case.bridge), theirs, case.terms)
    assert gap.value < TOLERANCE[dtype], gap
    assert gap.gradient is None or gap.gradient < TOLERANCE[dtype], gap


@pytest.mark.parametrize("case, dtype", EXPECTED)
def test_we_differ_as_we_say(case, dtype, answer):
    theirs = answer(case, dtype)
    assert case.expect(evaluate(case, dtype), theirs)
    assert not case.expect(theirs, theirs)  # and the peer does not


def test_every_difference_is_pinned_and_explained():
    for case in DIFFERENCES:
        assert (case.bridge is None) != (case.expect is None), case.id
        assert case.title and case.right, case.id
    assert len({case.id for case in DIFFERENCES}) == len(DIFFERENCES)
