"""The numbers of many lanes as arrays."""

import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import OptimConfig, RLHFConfig
from rlhf_jax.sweep.lanes import numbers, stacked, stacked_numbers


def test_numbers_are_those_of_the_program_alone():
    configs = [RLHFConfig(seed=i, optim=OptimConfig(learning_rate=10.0**-i)) for i in (1, 2)]
    assert {"seed", "sft", "reward_model"}.isdisjoint(numbers(configs[0]))
    rates = stacked_numbers(configs)["optim"]["learning_rate"]
    assert rates.dtype == jnp.float32
    np.testing.assert_allclose(rates, [0.1, 0.01], rtol=1e-6)


def test_a_number_that_is_none_stays_none():
    configs = [RLHFConfig(optim=OptimConfig(max_grad_norm=None))] * 2
    assert stacked_numbers(configs)["optim"]["max_grad_norm"] is None


def test_stacked_trees_have_an_axis_of_lanes():
    tree = {"a": np.ones(2, np.float32)}
    assert stacked([tree] * 3)["a"].shape == (3, 2)
