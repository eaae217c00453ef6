"""Where algorithms go: the tilted reference, and the fixed points of those that go elsewhere.

All distributions are log-probabilities over listed completions, [P, S] for P prompts; a scalar
of a policy is the mean over prompts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.types import Array

BISECTIONS = 40  # of a span of e^23: to 1e-11


def tilt(ref: Array, rewards: Array, beta: float | Array) -> Array:
    """The KL-regularised optimum: `log pi*(y) = log ref(y) + r(y) / beta - log Z`.

    It maximises `E[r] - beta KL(pi || ref)`, and the maximum is `beta log Z`.

    Args:
        ref: [P, S] log-probabilities of the reference.
        rewards: [P, S].
        beta: > 0, price of a nat of KL.

    Returns:
        [P, S], normalised.

    Source: Eq. 4 of Rafailov et al. 2023, arXiv:2305.18290 (Korbak et al. 2022, arXiv:2205.11275).

    >>> ref = jnp.log(jnp.array([[0.5, 0.5]]))
    >>> [round(p, 4) for p in jnp.exp(tilt(ref, jnp.array([[1.0, 0.0]]), 1.0))[0].tolist()]
    [0.7311, 0.2689]
    """
    return jax.nn.log_softmax(ref + rewards / beta, axis=-1)


def log_partition(ref: Array, rewards: Array, beta: float | Array) -> Array:
    """`log Z = log E_ref[e^(r / beta)]` of each prompt, [P] nats."""
    return jax.nn.logsumexp(ref + rewards / beta, axis=-1)


def mean_reward(log_probs: Array, rewards: Array) -> Array:
    """`E[r]`, mean over prompts."""
    return jnp.mean(jnp.sum(jnp.exp(log_probs) * rewards, axis=-1))


def divergence(log_probs: Array, other: Array) -> Array:
    """`KL(pi || other)` in nats, mean over prompts; completions of probability 0 count 0."""
    probs = jnp.exp(log_probs)
    gaps = jnp.where(probs > 0, log_probs - other, 0.0)
    return jnp.mean(jnp.sum(probs * gaps, axis=-1))


def objective(log_probs: Array, ref: Array, rewards: Array, beta: float | Array) -> Array:
    """`J = E[r] - beta KL(pi || ref)`, mean over prompts; at most `beta log Z`."""
    return mean_reward(log_probs, rewards) - beta * divergence(log_probs, ref)


def at_kl(ref: Array, rewards: Array, kl: Array) -> Array:
    """The tilted policy of a given mean KL, [P, S]: the best reward there is at that KL.

    One inverse temperature for all prompts, found by bisection; the KL grows with it.
    """
    return _bisected(ref, rewards, lambda policy: divergence(policy, ref) < kl)


def at_reward(ref: Array, rewards: Array, reward: Array) -> Array:
    """The tilted policy of a given mean reward, [P, S]: the least KL there is for that reward."""
    return _bisected(ref, rewards, lambda policy: mean_reward(policy, rewards) < reward)


def _bisected(ref: Array, rewards: Array, below) -> Array:
    """The tilt at the largest inverse temperature for which `below` holds."""
    span = jnp.maximum(jnp.max(rewards) - jnp.min(rewards), 1e-12)
    policy = lambda log_eta: tilt(ref, rewards * jnp.exp(log_eta), 1.0)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        less = below(policy(middle))
        return jnp.where(less, middle, low), jnp.where(less, high, middle)

    limits = (jnp.log(1e-6 / span), jnp.log(1e4 / span))
    low, high = lax.fori_loop(0, BISECTIONS, halve, limits)
    return policy(0.5 * (low + high))


def k3_fixed_point(ref: Array, rewards: Array, beta: float | Array) -> Array:
    """Where k3 in the loss leads: `pi = beta ref / (lambda - r)`, for completions of one token.

    Its gradient is that of `KL(ref || pi)`, so this is the optimum of `E[r] - beta KL(ref || pi)`;
    lambda > max r normalises it.

    Source: derived; see Liu et al. 2025, arXiv:2510.01555, on the gradient.
    """
    probs = jnp.exp(ref)
    top = jnp.max(rewards, axis=-1, keepdims=True)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # of log(lambda - top); the sum falls with it
        middle = 0.5 * (low + high)
        total = jnp.sum(beta * probs / (top + jnp.exp(middle) - rewards), axis=-1, keepdims=True)
        return jnp.where(total > 1, middle, low), jnp.where(total > 1, high, middle)

    bounds = (jnp.log(1e-8 * beta) + 0.0 * top, jnp.log(2.0 * beta) + 0.0 * top)
    _, high = lax.fori_loop(0, BISECTIONS, halve, bounds)
    return jax.nn.log_softmax(jnp.log(beta) + ref - jnp.log(top + jnp.exp(high) - rewards), axis=-1)


def ipo_optimum(ref: Array, sampler: Array, rewards: Array, beta: float | Array) -> Array:
    """Where IPO leads: `log pi(y) = log ref(y) + p(y > mu) / beta - c`, one prompt after the other.

    Args:
        ref: [P, S].
        sampler: [P, S] log-probabilities of mu, from which both texts of a pair are drawn.
        rewards: [P, S], by which a text wins with a chance of `sigmoid(r - r')` (Bradley-Terry).
        beta: > 0, tau of the paper.

    Source: Eq. 7 and Theorem 1 of Azar et al. 2023, arXiv:2310.12036.
    """
    return tilt(ref, lax.map(lambda x: win_rates(*x), (sampler, rewards)), beta)


def win_rates(sampler: Array, rewards: Array) -> Array:
    """The chance that each completion [S] is preferred to one of `sampler`, under Bradley-Terry."""
    probs = jax.nn.softmax(sampler)
    return lax.map(lambda r: jnp.sum(probs * jax.nn.sigmoid(r - rewards)), rewards)


def best_of_n(ref: Array, rewards: Array, n: int) -> Array:
    """Distribution of the best of n samples of the reference, [P, S] log-probabilities.

    `F(y)^n - F-(y)^n`, with F the chance of a reward of at most r(y) and F- of less; completions
    of equal reward share theirs as the reference does.

    Source: Lemma 1 of Beirami et al. 2024, arXiv:2401.01879.

    >>> uniform = jnp.log(jnp.full((1, 2), 0.5))
    >>> jnp.exp(best_of_n(uniform, jnp.array([[0.0, 1.0]]), 2)).tolist()
    [[0.25, 0.75]]
    """
    return jax.vmap(lambda log_p, r: _best_of_n(log_p, r, n))(ref, rewards)


def _best_of_n(log_probs: Array, rewards: Array, n: int) -> Array:
    order = jnp.argsort(rewards)
    probs, levels = jax.nn.softmax(log_probs)[order], rewards[order]
    total = jnp.concatenate([jnp.zeros(1, probs.dtype), jnp.cumsum(probs)])
    below = total[jnp.searchsorted(levels, levels, side="left")]
    upto = total[jnp.searchsorted(levels, levels, side="right")]
    tiny = jnp.finfo(probs.dtype).tiny
    won = probs / jnp.maximum(upto - below, tiny) * (upto**n - below**n)
    found = jnp.log(jnp.maximum(won, tiny))
    return jax.nn.log_softmax(jnp.zeros_like(log_probs).at[order].set(found))
