"""What is known of a policy on a finite environment: its true values, regret and value error."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.config import ClassicPPOConfig
from rlhf_jax.envs.protocol import Environment
from rlhf_jax.exact.mdp import optimal_values, policy_values, visitation
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.policies import Categorical
from rlhf_jax.rollout.envs import Play, as_seen
from rlhf_jax.types import Array, Metrics, Params


def optimum(env: Environment, config: ClassicPPOConfig) -> Array:
    """`V*` at the start state, in points."""
    assert env.mdp is not None
    mdp = env.mdp()
    return jnp.sum(mdp.start * optimal_values(mdp, config.gamma)[0])


def tables_of(
    env: Environment, model: Model, config: ClassicPPOConfig, params: Params, play: Play
) -> tuple[Array, Array]:
    """The policy [S, A] and the learnt values [S] in every state, in points of the environment."""
    assert env.observations is not None
    policy, values = model.apply(params, as_seen(config, play.seen, env.observations()))
    assert isinstance(policy, Categorical)
    unit = jnp.sqrt(play.gained.var + 1e-8) if config.scale_rewards else 1.0
    return jax.nn.softmax(policy.logits, axis=-1), unit * values


def exact_metrics(
    config: ClassicPPOConfig, env: Environment, policy: Array, learnt: Array, best: Array
) -> Metrics:
    """Regret at the start, and how wrong the value function is where the policy goes.

    `exact/regret = J* - J(pi)` in points and `exact/regret_share` as a share of `|J*|`;
    `exact/value_error` is the root mean square of `V - V^pi` under the discounted visits of `pi`.
    """
    assert env.mdp is not None
    mdp = env.mdp()
    true = policy_values(mdp, policy, config.gamma)
    visits = visitation(mdp, policy, config.gamma)
    returned = jnp.sum(mdp.start * true)
    squares = jnp.sum(visits * jnp.square(learnt - true)) / jnp.sum(visits)
    regret = best - returned
    return {
        "exact/return": returned,
        "exact/regret": regret,
        "exact/regret_share": regret / jnp.maximum(jnp.abs(best), 1e-6),
        "exact/value_error": jnp.sqrt(squares),
    }
