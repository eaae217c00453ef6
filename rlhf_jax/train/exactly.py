"""The exact lab inside an ordinary run: what is known of a policy whose completions are listed."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import (
    AlgoConfig,
    OnlineDPOConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
)
from rlhf_jax.exact.policy import policy_log_probs
from rlhf_jax.exact.quantities import gaps, measure
from rlhf_jax.tasks.protocol import Enumerable, listed
from rlhf_jax.train.preference_data import REFERENCE_FREE
from rlhf_jax.train.scoring import in_parts, make_score
from rlhf_jax.train.stages import Pipeline
from rlhf_jax.train.state import Algorithm, Frozen, TrainState
from rlhf_jax.types import Array, Metrics, Params, TextRollout

Look = Callable[[TrainState], Metrics]
Tables = tuple[Array, Array]  # the reference's log-probabilities and the reward trained on, [P, S]


def make_look(pipeline: Pipeline, frozen: Frozen) -> Look:
    """`state -> metrics` under `exact/`; none where the task's completions are not listed.

    The reward is the one trained on; with another than the true one `exact/gold` is the true one's
    mean.
    """
    tables = exact_tables(pipeline, frozen)
    return lambda state: look(pipeline, pipeline.config, tables, state)


def exact_tables(pipeline: Pipeline, frozen: Frozen) -> Tables | None:
    """What the policy is held against; None where the task's completions are not listed."""
    exact = pipeline.task.exact
    if exact is None:
        return None
    with pipeline.session.busy("listing the completions"):
        ref = jax.jit(lambda params: walk(pipeline, pipeline.config, params))(frozen.reference)
        return ref, reward_table(pipeline, frozen, exact)


def walk(pipeline: Pipeline, config: RLHFConfig, params: Params) -> Array:
    """Log-probability of every completion, [P, S]; the numbers of `config` may be traced."""
    exact = listed(pipeline.task)
    prompts = jax.tree.map(jnp.asarray, exact.prompts)
    settings = {"config": config.model, "sampling": config.sampling}
    return policy_log_probs(pipeline.model, params, exact.tree, prompts, **settings)


def look(
    pipeline: Pipeline, config: RLHFConfig, tables: Tables | None, state: TrainState
) -> Metrics:
    """What is known exactly of a policy; the numbers of `config` may be traced."""
    if tables is None:
        return {}
    log_probs = walk(pipeline, config, state.params["policy"])
    found = measure(log_probs, *tables)
    beta = price(config, state)
    if beta is not None:
        found |= gaps(log_probs, *tables, beta)
    if config.task.reward != "gold":
        exact = listed(pipeline.task)
        found["exact/gold"] = jnp.mean(jnp.sum(jnp.exp(log_probs) * exact.gold, axis=1))
    return found


def price(config: RLHFConfig, state: TrainState) -> Array | float | None:
    """What the algorithm pays for a nat; None where it has no such price."""
    algo = config.algo
    if isinstance(algo, PolicyGradientConfig):
        has_price = algo.kl_placement != "none"
        return jnp.maximum(state.extra["kl_coef"], 1e-6) if has_price else None
    return preference_price(algo)


def fixed_price(algo: AlgoConfig) -> float | None:
    """The same where it is one number from beginning to end; None where it changes."""
    if isinstance(algo, PolicyGradientConfig):
        fixed = algo.kl_controller == "fixed" and algo.kl_placement != "none"
        return algo.kl_coef if fixed else None
    return preference_price(algo)


def preference_price(algo: AlgoConfig) -> float | None:
    """The price in a preference loss; None without one or without a reference."""
    if isinstance(algo, OnlineDPOConfig):
        return algo.beta
    if isinstance(algo, PreferenceConfig) and algo.loss not in REFERENCE_FREE:
        return algo.beta
    return None


def watched(steps: Algorithm, look: Look) -> Algorithm:
    """The algorithm with what is known exactly of the policy after each update."""

    def learn(
        state: TrainState, rollout: TextRollout, scores: Array, frozen: Frozen, hparams: dict
    ) -> tuple[TrainState, Metrics]:
        after, metrics = steps.learn(state, rollout, scores, frozen, hparams)
        return after, metrics | look(after)

    return Algorithm.of(steps.collect, steps.score, learn)


def reward_table(pipeline: Pipeline, frozen: Frozen, exact: Enumerable) -> Array:
    """The reward trained on of every completion, [P, S]."""
    task = pipeline.task
    rollout = every_completion(exact)
    if pipeline.score_host is not None:
        scores = jnp.asarray(pipeline.score_host(rollout))
    else:
        name, special = pipeline.config.task.reward, task.codec.special
        score = make_score(name, pipeline.model, task.in_graph, special)
        scores = jax.jit(in_parts(score))(frozen, rollout)
    return scores.reshape(len(exact.prompts.tokens), exact.tree.size)


def every_completion(exact: Enumerable) -> TextRollout:
    """All completions after all prompts, [P * S] rows."""
    count = len(exact.prompts.tokens)
    heads = np.repeat(np.asarray(exact.prompts.tokens), exact.tree.size, axis=0)
    rows = [np.tile(x, (count, 1)) for x in (exact.tree.tokens(), exact.tree.mask())]
    unknown = np.zeros(rows[0].shape, np.float32)
    tokens, mask, log_probs = map(jnp.asarray, (*rows, unknown))
    return TextRollout(
        prompt_tokens=jnp.asarray(heads),
        prompt_mask=jnp.ones(heads.shape, bool),
        completion_tokens=tokens,
        completion_mask=mask,
        behavior_log_probs=log_probs,
    )
