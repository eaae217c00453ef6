import os
import sys

import pytest

from rlhf_jax import runtime
from rlhf_jax.config import RunConfig


@pytest.fixture
def environment(monkeypatch):
    """A process in which neither jax nor this package has set anything."""
    env = {}
    monkeypatch.setattr(os, "environ", env)
    monkeypatch.delitem(sys.modules, "jax")
    return env


def test_settings_reach_the_environment(environment):
    environment["RLHF_JAX_CACHE"] = "/somewhere"
    runtime.setup(RunConfig(device="gpu", threads=3, matmul_precision="bfloat16"))
    assert environment["JAX_PLATFORMS"] == "cuda"
    assert environment["NPROC"] == "3"
    assert environment["JAX_DEFAULT_MATMUL_PRECISION"] == "bfloat16"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "/somewhere/compiled"


def test_defaults_leave_platform_and_threads_to_jax(environment):
    runtime.setup(RunConfig(compile_cache=False))
    names = {"JAX_PLATFORMS", "NPROC", "JAX_COMPILATION_CACHE_DIR"}
    assert names.isdisjoint(environment)


def test_flags_of_xla_are_for_a_cpu_and_a_users_own_stay(environment):
    runtime.setup(RunConfig(device="gpu"))
    assert "XLA_FLAGS" not in environment
    environment["XLA_FLAGS"] = "--xla_cpu_max_isa=AVX2"
    runtime.setup(RunConfig(device="cpu"))
    first, *ours = environment["XLA_FLAGS"].split()
    assert first == "--xla_cpu_max_isa=AVX2"
    assert ours == [f"--{name}={value}" for name, value in runtime.CPU_FLAGS.items()]
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=3"
    runtime.add_flag("xla_backend_optimization_level", "1")
    assert environment["XLA_FLAGS"] == "--xla_backend_optimization_level=3"
    environment["XLA_FLAGS"] = "flags.txt"
    runtime.add_flag("xla_backend_optimization_level", "1")
    assert environment["XLA_FLAGS"] == "flags.txt"


def test_a_users_own_compilation_cache_is_kept(environment):
    environment["JAX_COMPILATION_CACHE_DIR"] = "/mine"
    runtime.setup(RunConfig())
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "/mine"


def test_too_late_is_an_error_but_a_second_run_is_not(environment, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", sys)
    with pytest.raises(RuntimeError, match="before jax is imported"):
        runtime.setup(RunConfig())
    environment[runtime.MARK] = str(os.getpid())
    runtime.setup(RunConfig())
