"""How good an algorithm's estimates are: its gradient beside the true one, its values beside V."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import PolicyGradientConfig, RLHFConfig, split_dynamic
from rlhf_jax.exact.policy import Levels, prefix_log_probs, prefix_values, step_log_probs
from rlhf_jax.lab.bench import Bench, Place, table_reward
from rlhf_jax.lab.programs import make_gradient
from rlhf_jax.models.value_heads import policy_and_values
from rlhf_jax.train.experience import make_experience
from rlhf_jax.train.policy_gradient import make_policy_gradient
from rlhf_jax.train.policy_loss import minibatch_loss
from rlhf_jax.train.scores import score_texts
from rlhf_jax.train.state import TrainState
from rlhf_jax.types import Array, Metrics, Params


def make_probe(bench: Bench, config: RLHFConfig) -> Callable[..., Metrics] | None:
    """`(state, place, beta) -> gradient_cosine, value_error`; None for what samples no rollouts.

    `value_error` is the root mean square error of the value function in standard deviations of the
    reward under the reference, over the prefixes the policy visits; NaN without a value function.
    """
    if not isinstance(config.algo, PolicyGradientConfig):
        return None
    estimate, gradient = quick(make_estimate(bench, config)), make_gradient(bench)
    critic_error = quick(functools.partial(value_error, bench, config))

    def probe(state: TrainState, place: Place, beta: Array) -> Metrics:
        true = gradient(state.params["policy"], place, beta)
        error = critic_error(state, place, beta) if "value" in state.params else jnp.nan
        found = cosine(*jax.device_get((true, estimate(state, place))))
        return {"gradient_cosine": jnp.asarray(found), "value_error": jnp.asarray(error)}

    return probe


def quick(f: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled as fast as can be: it is called once a lane."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def make_estimate(bench: Bench, config: RLHFConfig) -> Callable[[TrainState, Place], Params]:
    """The direction in which one whole batch would move the policy: minus its loss's gradient."""
    static, hparams = split_dynamic(config)
    score = table_reward(bench.tree)
    steps = make_policy_gradient(bench.model, static, special=bench.special, score=score)
    algo = config.algo
    assert isinstance(algo, PolicyGradientConfig)

    def estimate(state: TrainState, place: Place) -> Params:
        rollout = steps.collect(state, place.prompts, hparams)
        scored = score_texts(algo, rollout, score(place.frozen, rollout), bench.special)
        reference = place.frozen.reference
        experience, _ = make_experience(bench.model, config, state, scored, reference)

        def loss(policy: Params) -> Array:
            params = state.params | {"policy": policy}
            return minibatch_loss(bench.model, config, state.extra, params, experience)[0]

        return jax.tree.map(jnp.negative, jax.grad(loss)(state.params["policy"]))

    return estimate


def cosine(a: Params, b: Params) -> float:
    """Cosine of the angle between two trees of numpy arrays."""
    dot = lambda x, y: sum(np.vdot(u, v) for u, v in zip(jax.tree.leaves(x), jax.tree.leaves(y)))
    return float(dot(a, b) / np.sqrt(max(dot(a, a) * dot(b, b), 1e-30)))


def value_error(
    bench: Bench, config: RLHFConfig, state: TrainState, place: Place, beta: float | Array
) -> Array:
    """Error of the learnt values, see `make_probe`."""
    settings = {"config": bench.config.model, "sampling": bench.config.sampling}
    policy, tree = state.params["policy"], bench.tree
    levels = step_log_probs(bench.model, policy, tree, place.prompts, **settings)
    reference = place.frozen.reference
    ref_levels = step_log_probs(bench.model, reference, tree, place.prompts, **settings)
    cost = [beta * (new - old) for new, old in zip(levels, ref_levels)]
    true = prefix_values(tree, levels, place.rewards, cost)
    learnt = learnt_values(bench, config, state, place)
    visits = [jnp.exp(x) for x in prefix_log_probs(tree, levels)[:-1]]  # whole ones have no value
    square = sum(jnp.sum(v * (a - b) ** 2) for v, a, b in zip(visits, true, learnt))
    weight = sum(jnp.sum(v) for v in visits)
    probs = jnp.exp(place.ref)
    mean = jnp.sum(probs * place.rewards, axis=1, keepdims=True)
    spread = jnp.mean(jnp.sum(probs * (place.rewards - mean) ** 2, axis=1))
    return jnp.sqrt(square / weight / spread)


def learnt_values(bench: Bench, config: RLHFConfig, state: TrainState, place: Place) -> Levels:
    """The value function at each prefix, [P, W^t] for each depth t."""
    tree, prompts = bench.tree, place.prompts.tokens
    longest = jnp.asarray(tree.prefixes(tree.length - 1))  # [W^(T-1), T - 1]
    rows = longest.shape[0]
    heads = jnp.repeat(prompts, rows, axis=0)
    tokens = jnp.concatenate([heads, jnp.tile(longest, (prompts.shape[0], 1))], axis=1)
    width = prompts.shape[1]
    _, values = policy_and_values(
        bench.model,
        state.params,
        tokens,
        jnp.ones(tokens.shape, bool),
        window=(width - 1, width + tree.length - 1),
        mode=config.model.value_head,
        layers=config.model.value_layers,
    )
    values = values.reshape(prompts.shape[0], rows, tree.length)
    each = [tree.width ** (tree.length - 1 - t) for t in range(tree.length)]
    return [values[:, ::every, t] for t, every in enumerate(each)]
