"""How many lanes a program is given."""

from types import SimpleNamespace

import pytest

from rlhf_jax.sweep import memory
from rlhf_jax.sweep.layout import Layout


@pytest.mark.parametrize("free, workers, lanes", [(1000, 1, 8), (1000, 2, 4), (10, 1, 1)])
def test_a_program_that_does_not_fit_is_compiled_for_fewer_lanes(monkeypatch, free, workers, lanes):
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    compiled = []

    def compile_for(layout):
        compiled.append(layout.lanes)
        return SimpleNamespace(layout=layout, bytes=100 * layout.lanes)

    layout = Layout(strategy="vmap", lanes=8, shared=True, rows=1)
    found = memory.fitting(compile_for, layout, workers)
    assert found.layout.lanes == lanes == compiled[-1]
    assert len(compiled) <= 2


def test_the_free_memory_of_this_machine_is_known():
    assert memory.free_bytes() is None or memory.free_bytes() > 1e6
