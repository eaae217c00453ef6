"""Where a benchmark's numbers go."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.records import RESULTS
from benchmarks.settings import results_of


@pytest.mark.parametrize(
    "out, usual, path",
    [
        (None, True, RESULTS / "decode.json"),
        (None, False, RESULTS / "decode_other.json"),
        (Path("a.json"), True, Path("a.json")),
    ],
)
def test_only_usual_numbers_take_the_place_of_those_of_the_page(out, usual, path):
    assert results_of(Namespace(out=out), "decode", usual=usual) == path
