"""What the benchmarks' docstrings say of their functions holds."""

import doctest
import importlib
from pathlib import Path

import pytest

import benchmarks

FILES = sorted(Path(benchmarks.__path__[0]).glob("*.py"))
NAMES = [file.stem for file in FILES if ">>>" in file.read_text()]


@pytest.mark.parametrize("name", NAMES)
def test_examples_hold(name):
    found = doctest.testmod(importlib.import_module(f"benchmarks.{name}"))
    assert found.attempted and not found.failed
