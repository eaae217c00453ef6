"""What a policy makes of every completion: log-probabilities by one walk down the prefix tree."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlhf_jax.config import ModelConfig, SamplingConfig
from rlhf_jax.models.cache import KVCache
from rlhf_jax.models.functional import Model
from rlhf_jax.models.transformer import empty_cache
from rlhf_jax.sampling.filters import forbid
from rlhf_jax.tasks.tree import Tree
from rlhf_jax.types import Array, Params, Sequences

Levels = list[Array]  # at depth t: [P, width^t, letters (, end)] float, one entry for each depth


def step_log_probs(
    model: Model,
    params: Params,
    tree: Tree,
    prompts: Sequences,
    *,
    config: ModelConfig,
    sampling: SamplingConfig,
) -> Levels:
    """Log-probability of each next letter, and of the end, after every prefix.

    One cached step of the model for each depth, on all prefixes of that depth at once: every
    prefix is run once. Tokens are drawn as `sampling.decode.generate` does, but for top-k and
    top-p.

    Args:
        model: a language model over the tree's letters.
        params: its parameters.
        tree: width W, length T.
        prompts: P prompts of one length, without padding.
        config: of the model; `sampling`: temperature, and `min_length` of at most 1.

    Returns:
        T arrays [P, W^t, W], nats; [P, W^t, W + 1] with the end last, where there are ends.
    """
    count, width = prompts.tokens.shape
    cache = empty_cache(config, count, width + tree.length)
    output = model.apply(
        params, prompts.tokens, prompts.mask, cache=cache, window=(width - 1, width)
    )
    levels = [next_log_probs(model, output.logits[:, 0], tree, sampling, depth=0)]
    letters = tree.first + jnp.arange(tree.width, dtype=jnp.int32)
    for depth in range(1, tree.length):
        rows = count * tree.width ** (depth - 1)
        tokens = jnp.tile(letters, rows)[:, None]
        cache = branched(output.cache, tree.width)
        output = model.apply(params, tokens, jnp.ones_like(tokens, bool), cache=cache)
        levels.append(next_log_probs(model, output.logits[:, 0], tree, sampling, depth=depth))
    return [level.reshape(count, -1, level.shape[-1]) for level in levels]


def policy_log_probs(
    model: Model,
    params: Params,
    tree: Tree,
    prompts: Sequences,
    *,
    config: ModelConfig,
    sampling: SamplingConfig,
) -> Array:
    """Log-probability of every completion of P prompts, [P, S] nats; see `step_log_probs`."""
    levels = step_log_probs(model, params, tree, prompts, config=config, sampling=sampling)
    return sequence_log_probs(tree, levels)


def branched(cache: KVCache, width: int) -> KVCache:
    """Each row `width` times, one after the other."""
    repeat = lambda x: jnp.repeat(x, width, axis=0) if x.ndim else x
    return jax.tree.map(repeat, cache)


def next_log_probs(
    model: Model, logits: Array, tree: Tree, sampling: SamplingConfig, *, depth: int
) -> Array:
    """Log-probabilities [B, W (+ 1)] of the letters and of the end, from logits [B, V]."""
    early = jnp.asarray(depth < sampling.min_length)
    log_probs = jax.nn.log_softmax(forbid(logits, model.eos, early) / sampling.temperature)
    letters = log_probs[:, tree.first : tree.first + tree.width]
    if not tree.ends:
        return letters
    return jnp.concatenate([letters, log_probs[:, model.eos, None]], axis=1)


def sequence_log_probs(tree: Tree, levels: Levels) -> Array:
    """Log-probability of every completion, [P, S] nats, from those of each step."""
    *prefixes, whole = prefix_log_probs(tree, levels)
    ended = [prefixes[depth] + levels[depth][..., -1] for depth in tree.stops]
    return jnp.concatenate([*ended, whole], axis=1)


def prefix_log_probs(tree: Tree, levels: Levels) -> Levels:
    """Log-probability of every prefix of 0, 1, ... T letters, T + 1 arrays [P, W^t] nats."""
    found = [jnp.zeros_like(levels[0][..., 0])]
    for step in levels:
        ahead = found[-1][..., None] + step[..., : tree.width]
        found.append(ahead.reshape(ahead.shape[0], -1))
    return found


def prefix_values(
    tree: Tree, levels: Levels, worth: Array, step_cost: Levels | None = None
) -> Levels:
    """Expected worth of what follows each prefix: `V(s) = sum_a pi(a|s) (V(sa) - cost(s, a))`.

    Args:
        tree: width W, length T.
        levels: step log-probabilities of the policy.
        worth: [P, S], of every completion.
        step_cost: as `levels`, paid at each step (a price of KL); none by default.

    Returns:
        T arrays [P, W^t] in the unit of `worth`; the first is the policy's value of each prompt.
    """

    def expected(depth: int, ahead: Array) -> Array:
        if step_cost is not None:
            ahead = ahead - step_cost[depth]
        chance = jnp.exp(levels[depth])
        return jnp.sum(jnp.where(chance > 0, chance * ahead, 0.0), axis=-1)

    return backward(tree, worth, expected)


def soft_values(tree: Tree, ref_levels: Levels, rewards: Array, beta: float | Array) -> Levels:
    """Value under the optimum: `V*(s) = beta log sum_a ref(a|s) e^(V*(sa) / beta)`.

    Soft dynamic programming; `V*` of an empty prefix is `beta log Z`, and the optimum takes step a
    with probability `ref(a|s) e^((V*(sa) - V*(s)) / beta)`.

    Args:
        tree: width W, length T.
        ref_levels: step log-probabilities of the reference.
        rewards: [P, S].
        beta: > 0, price of a nat.

    Returns:
        T arrays [P, W^t], in the unit of `rewards`.
    """
    soft = lambda depth, ahead: beta * jax.nn.logsumexp(ref_levels[depth] + ahead / beta, axis=-1)
    return backward(tree, rewards, soft)


def backward(tree: Tree, worth: Array, value_of: Callable[[int, Array], Array]) -> Levels:
    """Values of all prefixes from those of completions [P, S], deepest first.

    `value_of(depth, ahead)` makes the value of each prefix [P, W^t] of what each step leads to.
    """
    value, values = worth[:, tree.offset(tree.length) :], []
    for depth in range(tree.length - 1, -1, -1):
        ahead = value.reshape(value.shape[0], -1, tree.width)
        if tree.ends:
            ahead = jnp.concatenate([ahead, ended(tree, worth, depth)[..., None]], axis=-1)
        value = value_of(depth, ahead)
        values.append(value)
    return values[::-1]


def ended(tree: Tree, worth: Array, depth: int) -> Array:
    """Worth [P, W^t] of ending after each prefix of t letters; 0 where that cannot be."""
    count = tree.width**depth
    if depth not in tree.stops:
        return jnp.zeros((worth.shape[0], count), worth.dtype)
    return worth[:, tree.offset(depth) : tree.offset(depth) + count]
