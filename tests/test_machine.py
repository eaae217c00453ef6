"""What can be told of a machine without jax."""

import pytest

from rlhf_jax import machine
from rlhf_jax.config import RunConfig


@pytest.mark.parametrize(
    "name, likely",
    [("nvidia0", True), ("nvidia3", True), ("dxg", True), ("accel1", True), ("nvidiactl", False)],
)
def test_an_accelerator_is_told_by_its_driver(tmp_path, monkeypatch, name, likely):
    monkeypatch.setattr(machine, "DEV", tmp_path)
    find = machine.importlib.util.find_spec
    without = lambda name, *more: None if name == "libtpu" else find(name, *more)
    monkeypatch.setattr(machine.importlib.util, "find_spec", without)
    assert not machine.accelerator_likely(RunConfig())
    (tmp_path / name).touch()
    assert machine.accelerator_likely(RunConfig()) == likely
    assert not machine.accelerator_likely(RunConfig(device="cpu"))
    assert machine.accelerator_likely(RunConfig(device="gpu"))


@pytest.mark.parametrize("total, parts", [(0, 2), (5, 2), (6, 4), (3, 3), (7, 3)])
def test_blocks_are_everything_once_in_order_and_even(total, parts):
    found = machine.blocks(total, parts)
    assert [i for block in found for i in block] == list(range(total))
    sizes = [len(block) for block in found]
    assert len(sizes) == parts and max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
