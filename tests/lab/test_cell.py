"""Cells of the report card: lanes, curves, and rows that calibrate them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import (
    BanditConfig,
    ModelConfig,
    OptimConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
    SamplingConfig,
    SFTConfig,
)
from rlhf_jax.exact.groups import expected_advantages, grpo_fixed_point
from rlhf_jax.exact.optimum import divergence, k3_fixed_point, tilt
from rlhf_jax.lab.agents import calibration_rows, envelopes
from rlhf_jax.lab.bench import make_bench, table_reward
from rlhf_jax.lab.cell import LONG, options, run_cell
from rlhf_jax.lab.probes import make_probe, value_error
from rlhf_jax.lab.rows import Plan
from rlhf_jax.train import policy_gradient
from rlhf_jax.train.exactly import every_completion

RLOO = PolicyGradientConfig(
    name="rloo",
    updates=16,
    batch_size=64,
    group_size=4,
    epochs=1,
    minibatches=1,
    advantage="rloo",
    whiten_advantages="none",
    kl_controller="fixed",
    kl_coef=0.5,
)
CONFIG = RLHFConfig(
    task=BanditConfig(num_texts=2048, num_pairs=512, letters=4, labels="exact"),
    model=ModelConfig(layers=1, width=16, heads=2, kv_heads=1, ff_width=32, context=8),
    sft=SFTConfig(steps=60, optim=OptimConfig(learning_rate=1e-2)),
    sampling=SamplingConfig(max_length=1),
    optim=OptimConfig(learning_rate=1e-2),
    algo=RLOO,
)
PLAN = Plan(seeds=[0, 1], budgets=[256, 1024], beta=0.5)


@pytest.fixture(scope="module")
def bench():
    return make_bench(CONFIG, [0, 9])


@pytest.fixture(scope="module")
def rows(bench):
    return run_cell(bench, CONFIG, PLAN)


def test_a_cell_has_a_row_for_each_lane_and_learns(rows):
    lanes = [(row["instance"], row["seed"]) for row in rows]
    assert lanes == [(0, 0), (0, 1), (9, 0), (9, 1)]
    for row in rows:
        assert len(row["gap_share"]) == 2 and row["gap_share"][-1] < 0.5
        assert row["above_envelope"] == 0 and row["skipped"] == 0
        assert row["kind"] == "trained" and row["algo"] == "rloo"
        assert 0 < row["kl_efficiency"] <= 1 + 1e-4
        assert -1 <= row["gradient_cosine"] <= 1 and row["value_error"] is None
    assert rows[0]["gap_share"] != rows[1]["gap_share"]


def test_a_lane_is_what_it_is_alone(bench, rows):
    alone = run_cell(bench, CONFIG, dataclasses.replace(PLAN, seeds=[1]))
    for found, expected in zip(alone, (rows[1], rows[3])):
        assert (found["instance"], found["seed"]) == (expected["instance"], expected["seed"])
        np.testing.assert_allclose(found["gap_share"], expected["gap_share"], atol=1e-5)
        np.testing.assert_allclose(found["kl"], expected["kl"], atol=1e-5)


def test_a_large_batch_has_the_true_gradients_direction(bench):
    place = jax.tree.map(lambda x: x[0], bench.places)

    def cosine(config):
        config = dataclasses.replace(config, model=bench.config.model)
        start = policy_gradient.init(config, place.frozen, jax.random.key(3))
        return make_probe(bench, config)(start, place, jnp.float32(0.5))

    large = dataclasses.replace(CONFIG, algo=dataclasses.replace(RLOO, batch_size=4096))
    found = cosine(large)
    assert found["gradient_cosine"] > 0.98 and np.isnan(found["value_error"])
    small = dataclasses.replace(CONFIG, algo=dataclasses.replace(RLOO, batch_size=16))
    assert cosine(small)["gradient_cosine"] < found["gradient_cosine"]


def test_the_values_error_is_0_where_they_are_right_and_grows(bench):
    ppo = dataclasses.replace(RLOO, advantage="gae", group_size=1)
    model = dataclasses.replace(bench.config.model, value_head="shared", value_init="zero")
    config = dataclasses.replace(CONFIG, algo=ppo, model=model)
    place = jax.tree.map(lambda x: x[0], bench.places)
    state = policy_gradient.init(config, place.frozen, jax.random.key(3))
    # At the reference the values are the prompts' mean rewards; without rewards 0 is right.
    error = value_error(bench, config, state, place, 0.5)
    spread = jnp.sum(jnp.exp(place.ref) * place.rewards, axis=1)
    assert float(error) == pytest.approx(float(jnp.sqrt(jnp.mean(spread**2)) / sd(place)), rel=1e-3)
    head = state.params["value"]["head"] | {"bias": jnp.asarray(2.0)}
    wrong = dataclasses.replace(
        state, params=state.params | {"value": state.params["value"] | {"head": head}}
    )
    assert float(value_error(bench, config, wrong, place, 0.5)) > 1.0


def sd(place):
    """Of the reward under the reference."""
    probs = jnp.exp(place.ref)
    mean = jnp.sum(probs * place.rewards, axis=1, keepdims=True)
    return float(jnp.sqrt(jnp.mean(jnp.sum(probs * (place.rewards - mean) ** 2, axis=1))))


def test_the_table_is_the_tasks_reward(bench):
    for i, task in enumerate(bench.tasks):
        place = jax.tree.map(lambda x: x[i], bench.places)  # noqa: B023
        rollout = every_completion(task.exact)
        found = table_reward(bench.tree)(place.frozen, rollout)
        np.testing.assert_allclose(found, task.gold(rollout.tokens(), rollout.mask()), rtol=1e-6)
    first, second = bench.places.rewards
    assert np.abs(first - second).max() > 0.1


def test_calibration_rows_are_where_they_must_be(bench):
    found = calibration_rows(bench, PLAN)
    ends = {(row["algo"], row["instance"]): row for row in found}
    for instance in (0, 9):
        assert ends["optimal", instance]["gap_share"][-1] == pytest.approx(0.0, abs=1e-5)
        assert ends["optimal", instance]["beta_eff"] == pytest.approx(0.5, abs=1e-3)
        assert ends["reference", instance]["gap_share"][-1] == pytest.approx(1.0, abs=1e-4)
        assert ends["reference", instance]["beta_eff"] is None
        assert 0 < ends["best_of_4", instance]["gap_share"][-1] < 1
    assert all(row["kind"] == "calibration" and row["above_envelope"] == 0 for row in found)
    curves = envelopes(bench)
    assert set(curves) == {"bandit/0", "bandit/9"}
    assert (np.diff(curves["bandit/0"]["reward"]) >= -1e-6).all()


def test_pairs_lead_to_the_optimum_too(bench):
    dpo = PreferenceConfig(updates=16, batch_size=32, beta=0.5)
    found = run_cell(bench, dataclasses.replace(CONFIG, algo=dpo), PLAN)
    assert all(row["gap_share"][-1] < 0.5 for row in found)
    assert {row["own_gap_share"] for row in found} == {None}
    ipo = dataclasses.replace(dpo, loss="ipo", name="ipo")
    found = run_cell(bench, dataclasses.replace(CONFIG, algo=ipo), PLAN)
    assert all(row["own_gap_share"][-1] < row["own_gap_share"][0] < 1 for row in found)


def test_grpo_rests_where_its_expected_update_is_nothing(float64):
    ref = jax.nn.log_softmax(jnp.array([[0.3, -0.2, 0.5, 0.0]]))
    rewards = jnp.array([[1.0, 0.2, -0.5, 0.1]])
    settings = {"group_size": 3, "estimator": "k3"}
    found = grpo_fixed_point(ref, rewards, 0.5, **settings)
    gain = expected_advantages(found[0], rewards[0], 3)
    pull = gain + 0.5 * jnp.exp(ref[0] - found[0])  # minus beta times the slope of k3
    assert float(jnp.ptp(pull)) < 1e-6
    assert float(divergence(found, tilt(ref, rewards, 0.5))) > 1e-2  # not the tilt
    assert float(divergence(found, k3_fixed_point(ref, rewards, 0.5))) > 1e-2


def test_k3_in_the_loss_rests_where_it_says(float64):
    ref = jax.nn.log_softmax(jnp.array([[0.3, -0.2, 0.5], [0.0, 0.1, 2.0]]))
    rewards = jnp.array([[1.0, 0.2, -0.5], [0.0, 0.0, 1.0]])
    found = jnp.exp(k3_fixed_point(ref, rewards, 0.5))
    pull = rewards + 0.5 * jnp.exp(ref) / found
    np.testing.assert_allclose(jnp.ptp(pull, axis=1), 0.0, atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("updates, long", [(LONG - 1, False), (LONG, True)])
def test_only_long_cells_ask_for_the_fusions_and_xla_knows_them(updates, long):
    config = dataclasses.replace(CONFIG, algo=dataclasses.replace(RLOO, updates=updates))
    found = options(config)
    assert bool(found) == long
    assert float(jax.jit(lambda x: 2 * x, compiler_options=found)(jnp.float32(2))) == 4
