"""One algorithm on one task: all instances and seeds as lanes of one program, measured exactly."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlhf_jax.config import (
    OnlineDPOConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
    split_dynamic,
)
from rlhf_jax.exact.groups import grpo_fixed_point
from rlhf_jax.exact.optimum import ipo_optimum, k3_fixed_point
from rlhf_jax.lab.bench import (
    Bench,
    Place,
    lanes,
    listed,
    seed_keys,
    table_reward,
)
from rlhf_jax.lab.pairs import pair_lanes
from rlhf_jax.lab.probes import make_probe
from rlhf_jax.lab.programs import each_lane, make_look
from rlhf_jax.lab.rows import Plan, card_row, finite
from rlhf_jax.runtime import FUSION_EMITTERS
from rlhf_jax.train import one_step, online_dpo, policy_gradient, preference
from rlhf_jax.train.state import TrainState
from rlhf_jax.types import Array

Step = Callable[[TrainState, Any, Place], TrainState]  # of one lane
UNBIASED = ("rloo", "no_baseline", "moving_mean")  # estimators of the reward's own gradient
MOST_GROUPS = 10_000  # that are summed over for a fixed point
LONG = 2000  # updates
PROBED = 2  # the budget after which estimates are looked at


def run_cell(bench: Bench, config: RLHFConfig, plan: Plan) -> list[dict[str, Any]]:
    """A row for each lane: curves over `plan.budgets`, and where it ended.

    Args:
        bench: the task with its instances.
        config: settings with the algorithm; as many updates as the largest budget allows.
    """
    start = time.monotonic()
    places = lanes(bench.places, len(plan.seeds))
    keys = seed_keys(plan.seeds, len(bench.tasks))
    init, step, data = make_step(bench, config, plan)
    state = jax.jit(jax.vmap(init))(places, keys)
    advance = jax.jit(make_advance(step), donate_argnums=0, compiler_options=options(config))
    target = jax.jit(jax.vmap(lambda place: own_target(bench, config, place, plan.beta)))(places)
    look, beta = make_look(bench), jnp.float32(plan.beta)
    probe, curves, probed, done = make_probe(bench, config), [], {}, 0
    for i, budget in enumerate(plan.budgets):
        updates = budget // config.algo.completions
        state = advance(state, data, places, jnp.asarray(updates - done, jnp.int32))
        seen = each_lane(look, (state.params["policy"], places, target), beta)
        curves.append(seen | {"skipped": np.asarray(state.skipped, np.float32)})
        if probe is not None and i == min(PROBED, len(plan.budgets) - 1):
            probed = each_lane(probe, (state, places), beta)
        done = updates
    curves = jax.tree.map(lambda *x: np.stack(x, axis=1), *curves)  # [lanes, budgets]
    seconds = (time.monotonic() - start) / len(keys)
    aims = np.asarray(jnp.all(jnp.isfinite(target), axis=(1, 2)))
    row = functools.partial(row_of, bench, config, plan, curves, probed)
    return [row(i, bool(aims[i]), seconds) for i in range(len(keys))]


def options(config: RLHFConfig) -> dict[str, Any]:
    """How a cell is compiled: many updates pay for what makes a small one twice as fast."""
    long = config.algo.updates >= LONG and jax.default_backend() == "cpu"
    return {FUSION_EMITTERS: True} if long else {}


def make_step(bench: Bench, config: RLHFConfig, plan: Plan):
    """`(place, key) -> state`, `(state, data, place) -> state` of one lane, and the data."""
    static, hparams = split_dynamic(config)
    if isinstance(config.algo, PreferenceConfig):
        train = preference.make_train_step(bench.model, static)
        data = pair_lanes(bench, config, plan.seeds)
        first = lambda place, key: one_step.init(config, place.frozen, key)
        return first, lambda state, data, place: train(state, data, hparams)[0], data
    online = isinstance(config.algo, OnlineDPOConfig)
    make = online_dpo.make_online_dpo if online else policy_gradient.make_policy_gradient
    begin = one_step.init if online else policy_gradient.init
    score = table_reward(bench.tree)
    update = make(bench.model, static, special=bench.special, score=score).train_step
    first = lambda place, key: begin(config, place.frozen, key)
    step = lambda state, data, place: update(state, place.prompts, place.frozen, hparams)[0]
    return first, step, None


def make_advance(step: Step):
    """`(state, data, places, count) -> state`: so many updates of all lanes."""
    together = jax.vmap(step)

    def advance(state: TrainState, data: Any, places: Place, count: Array) -> TrainState:
        return lax.fori_loop(0, count, lambda _, state: together(state, data, places), state)

    return advance


def own_target(bench: Bench, config: RLHFConfig, place: Place, beta: float) -> Array:
    """Where an algorithm is known to lead if not to the tilt, [P, S]; NaN if it is not known."""
    algo = config.algo
    if isinstance(algo, PreferenceConfig) and algo.loss == "ipo":
        return ipo_optimum(place.ref, place.source, place.rewards, algo.beta)
    if not isinstance(algo, PolicyGradientConfig) or algo.kl_importance:
        return jnp.full_like(place.ref, jnp.nan)
    if bench.tree.length == 1 and algo.kl_placement == "loss":
        groups = bench.tree.size ** (algo.group_size - 1)
        if algo.advantage == "grpo" and algo.kl_estimator in ("k2", "k3") and groups <= MOST_GROUPS:
            settings = {"group_size": algo.group_size, "estimator": algo.kl_estimator}
            return grpo_fixed_point(place.ref, place.rewards, beta, **settings)
        if algo.advantage in UNBIASED and algo.kl_estimator == "k3":
            return k3_fixed_point(place.ref, place.rewards, beta)
    return jnp.full_like(place.ref, jnp.nan)


def row_of(
    bench: Bench,
    config: RLHFConfig,
    plan: Plan,
    curves: Any,
    probed: dict[str, Any],
    lane: int,
    aimed: bool,
    seconds: float,
) -> dict[str, Any]:
    """One run as the card has it."""
    at = {k: [finite(x) for x in v[lane]] for k, v in curves.items()}
    instance, seed = divmod(lane, len(plan.seeds))
    number = listed(bench.tasks[instance]).number
    names = (config.task.name, config.algo.name)
    row = card_row(*names, number, int(plan.seeds[seed]), plan, at)
    own = at["own"] if aimed else None
    row |= {"seconds": seconds, "own_gap_share": own, "skipped": at["skipped"][-1]}
    if at["skipped"][-1]:  # a step that was not finite: what it ends with is no result
        row["gap_share"] = [*row["gap_share"][:-1], None]
        row |= {"own_gap_share": own and [*own[:-1], None], "beta_eff": None, "beta_r2": None}
    return row | {k: finite(v[lane]) for k, v in probed.items()}
