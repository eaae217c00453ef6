"""Texts of the optimum or the reference, their probability, and how far any policy is from it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_jax.tasks.automaton.horizon import TimedTilt, step_probs
from rlhf_jax.tasks.automaton.walk import Reading, Walk, read
from rlhf_jax.tasks.tokens import PAD


class Gap(NamedTuple):
    """What a policy lacks, from texts drawn from it. `error` is one standard error.

    All are inf, but `objective` -inf, if the policy wrote what the reference cannot.
    """

    objective: float  # J = mean(r - beta (log pi - log p)), in units of the reward
    gap: float  # J* - J >= 0 in expectation, J* the mean over the texts' prompts
    error: float  # of the gap
    kl: float  # KL(pi || pi*) = gap / beta, in nats
    kl_error: float


def draw_texts(
    walk: Walk, solved: TimedTilt, which: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Exact samples, from the optimum or with eta = 0 from the reference.

    Args:
        walk: texts and rewards.
        solved: its solution for some eta.
        which: [N], the prompt of each text by number.
        rng: where randomness comes from.

    Returns:
        Prompts and completions [N, P + T] int32; padding after an end.
    """
    states, edges = walk.starts[which], walk.joint.edges
    tokens = np.full((len(which), walk.horizon), PAD, np.int32)
    for t in range(walk.horizon):
        going = np.flatnonzero(walk.first[states + 1] > walk.first[states])
        steps = _draw(walk, step_probs(walk, solved, t), states[going], rng.random(len(going)))
        tokens[going, t], states[going] = edges.token[steps], edges.target[steps]
    return np.concatenate([walk.prompts[which], tokens], axis=1)


def _draw(walk: Walk, probs: np.ndarray, states: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """One step out of each state, by the inverse of the cumulated probabilities."""
    low, high = walk.first[states], walk.first[states + 1] - 1
    total = np.concatenate([[0.0], np.cumsum(probs)])
    level = total[low] + draws * (total[high + 1] - total[low])
    return np.clip(np.searchsorted(total[1:], level, side="right"), low, high)


def log_probs(solved: TimedTilt, texts: Reading) -> np.ndarray:
    """log pi*(completion | prompt) in nats, [N]; -inf for an impossible one.

    log pi*(y) = log p(y) + eta r(y) + log Z(where y ends) - log Z(prompt), also of beginnings.
    """
    after = solved.log_z[texts.length, np.maximum(texts.end, 0)]
    return texts.log_prob + solved.eta * texts.reward + after - solved.log_z[0, texts.start]


def policy_gap(
    walk: Walk,
    solved: TimedTilt,
    tokens: np.ndarray,
    policy_log_probs: np.ndarray,
    prompt_width: int,
) -> Gap:
    """Unbiased distance of any policy to the optimum (A2): J* - J = beta KL(pi || pi*).

    Each text is an estimate V*(prompt) - r + beta (log pi - log p) of it; texts of the optimum
    all give 0.

    Args:
        walk: texts and rewards.
        solved: its solution for eta = 1 / beta > 0.
        tokens: [N, L] whole texts drawn from the policy, N >= 2, padding anywhere.
        policy_log_probs: [N], log pi(completion | prompt), as drawn from, in nats.
        prompt_width: columns that belong to the prompt.

    Raises:
        ValueError: `eta` not positive, or completions that have not ended: the optimum is that of
            whole ones.
    """
    if not solved.eta > 0:
        raise ValueError(f"eta={solved.eta}: a gap needs a beta above 0")
    texts, beta = read(walk, tokens, prompt_width), 1 / solved.eta
    if np.isinf(texts.log_prob).any():
        return Gap(-np.inf, np.inf, np.inf, np.inf, np.inf)
    open_end = walk.first[texts.end + 1] > walk.first[texts.end]
    if (open_end & (texts.length < walk.horizon)).any():
        raise ValueError(f"completions must end, or have {walk.horizon} tokens")
    objective = texts.reward - beta * (np.asarray(policy_log_probs, float) - texts.log_prob)
    gaps = solved.value[0, texts.start] - objective
    gap, error = gaps.mean(), gaps.std(ddof=1) / np.sqrt(len(gaps))
    return Gap(*map(float, (objective.mean(), gap, error, gap / beta, error / beta)))
