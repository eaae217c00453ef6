"""Texts of a grammar and what machines pay for them, as steps between joint states in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.tasks.reviews.exact import length_range
from rlhf_jax.tasks.reviews.films import film_grammar
from rlhf_jax.tasks.reviews.gold import film_machines
from rlhf_jax.tasks.reviews.grammar import Grammar
from rlhf_jax.tasks.reviews.machines import Machine
from rlhf_jax.tasks.reviews.optimum import Product, product
from rlhf_jax.tasks.tokens import PAD

PADDED, IMPOSSIBLE = -1, -2  # in place of the number of a step


class Walk(NamedTuple):
    """All completions of some prompts, at most `horizon` tokens long.

    `first[s]` to `first[s + 1]` number the steps out of state s; where there are none a text has
    ended.
    """

    joint: Product  # E steps over S joint states of grammar and machines; 0 stands before BOS
    horizon: int  # T
    prompts: np.ndarray  # [K, P] int32, BOS first
    starts: np.ndarray  # [K], the joint state after each prompt
    first: np.ndarray  # [S + 1]


class Reading(NamedTuple):
    """What completions are under a walk; a token it cannot write makes `log_prob` -inf."""

    start: np.ndarray  # [N], joint state after the prompt
    end: np.ndarray  # [N], and after the completion; -1 if it is impossible
    length: np.ndarray  # [N], tokens of the completion
    log_prob: np.ndarray  # [N] float64, log p(completion | prompt) in nats
    reward: np.ndarray  # [N] float64


def make_walk(
    grammar: Grammar, machines: Sequence[Machine], prompts: np.ndarray, horizon: int
) -> Walk:
    """Joins a grammar and reward machines.

    Args:
        grammar: how texts are written, BOS first.
        machines: automata over the same tokens that pay for them.
        prompts: [K, P] openings that the grammar can write; padding on either side.
        horizon: most tokens of a completion.

    Raises:
        ValueError: a prompt that the grammar cannot write.
    """
    joint = product(grammar, machines)
    first = np.searchsorted(joint.edges.source, np.arange(joint.edges.num_states + 1))
    walk = Walk(joint, horizon, prompts, np.zeros(len(prompts), np.int64), first)
    return walk._replace(starts=read(walk, prompts, prompts.shape[1]).start)


def reviews_walk(openings: np.ndarray) -> Walk:
    """The walk of the task `reviews` after openings [K, P]: completions end with EOS.

    >>> from rlhf_jax.tasks.tokens import BOS
    >>> walk = reviews_walk(np.array([[BOS]], np.int32))
    >>> walk.horizon, walk.joint.edges.num_states
    (30, 20774)
    """
    grammar = film_grammar()
    return make_walk(grammar, film_machines(), openings, length_range(grammar)[1] + 1)


def read_steps(walk: Walk, tokens: np.ndarray) -> np.ndarray:
    """The step that each token of whole texts takes: [N, L], `PADDED` or `IMPOSSIBLE` elsewhere.

    After an impossible token all are.
    """
    edges = walk.joint.edges
    width = 1 + max(int(edges.token.max()), int(tokens.max()))
    keys = edges.source.astype(np.int64) * width + edges.token  # ascending
    states = np.zeros(len(tokens), np.int64)
    steps = np.full(tokens.shape, PADDED, np.int64)
    for t, token in enumerate(tokens.T):
        found = np.minimum(np.searchsorted(keys, states * width + token), len(keys) - 1)
        possible, real = keys[found] == states * width + token, token != PAD
        steps[real, t] = np.where(possible, found, IMPOSSIBLE)[real]
        states = np.where(real, np.where(possible, edges.target[found], -1), states)
    return steps


def read(walk: Walk, tokens: np.ndarray, prompt_width: int) -> Reading:
    """Log-probability and reward of completions.

    Args:
        walk: what is known.
        tokens: [N, L], prompt and completion, BOS first; padding anywhere.
        prompt_width: columns that belong to the prompt.

    Returns:
        Sums over the tokens behind the prompt. The reward stops at an impossible token.

    Raises:
        ValueError: an impossible prompt, or a completion longer than the horizon.
    """
    steps, edges = read_steps(walk, tokens), walk.joint.edges
    prompt, own = steps[:, :prompt_width], steps[:, prompt_width:]
    length = (own != PADDED).sum(axis=1)
    if (prompt == IMPOSSIBLE).any():
        raise ValueError("a prompt that the grammar cannot write")
    if length.max(initial=0) > walk.horizon:
        raise ValueError(f"a completion of {length.max()} tokens; the walk has {walk.horizon}")
    start = _after(walk, prompt, np.zeros(len(steps), np.int64))
    log_prob = np.where(own >= 0, np.log(edges.prob)[own], 0.0).sum(axis=1)
    reward = np.where(own >= 0, walk.joint.reward[own], 0.0).sum(axis=1)
    impossible = (own == IMPOSSIBLE).any(axis=1)
    return Reading(
        start=start,
        end=np.where(impossible, -1, _after(walk, own, start)),
        length=length,
        log_prob=np.where(impossible, -np.inf, log_prob),
        reward=reward,
    )


def _after(walk: Walk, steps: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Where the last real step of each row leads; where it stood, if there is none."""
    for step in steps.T:
        states = np.where(step >= 0, walk.joint.edges.target[step], states)
    return states
