"""The KL-regularised optimum against the grammar itself, by dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.tasks.reviews.exact import Edges, edges_of, expected_to_go
from rlhf_jax.tasks.reviews.grammar import Grammar
from rlhf_jax.tasks.reviews.machines import Machine
from rlhf_jax.tasks.reviews.rules import GrammarError
from rlhf_jax.tasks.reviews.sampler import run_states
from rlhf_jax.tasks.tokens import PAD

MAX_STEPS = 10_000


class Product(NamedTuple):
    """Grammar and reward automata read as one: what can be written and what it pays."""

    edges: Edges  # E steps over S joint states, in the order of their sources, then of tokens
    reward: np.ndarray  # [E] float64
    codes: np.ndarray  # [S] sorted joint codes of (grammar state, machine states)


class Tilt(NamedTuple):
    """The policy p(x) e^{eta r(x)} / Z from each joint state on."""

    log_z: np.ndarray  # [S], log E[e^{eta r}] of what follows
    reward: np.ndarray  # [S], its expected reward to go
    kl: np.ndarray  # [S], its KL to the grammar in nats: eta * reward - log_z


def product(grammar: Grammar, machines: Sequence[Machine]) -> Product:
    """All joint states that texts of the grammar reach, and the steps between them.

    Args:
        grammar: S states over V tokens.
        machines: reward automata over the same tokens.

    Returns:
        The joint automaton, its state 0 the start.

    >>> from rlhf_jax.tasks.reviews.grammar import compile_grammar
    >>> coin = compile_grammar("A = heads | tails")
    >>> pays = Machine(np.zeros((1, 5), np.int32), np.eye(5, dtype=np.float32)[3:4])
    >>> round(float(tilt(product(coin, [pays]), 1.0).log_z[0]), 6)  # log((1 + e) / 2)
    0.620115
    """
    steps = edges_of(grammar)
    sizes = [len(grammar.probs), *(len(m.reward) for m in machines)]
    known = frontier = np.zeros(1, np.int64)
    found = []
    while len(frontier):
        states = np.stack(np.unravel_index(frontier, sizes))  # [1 + M, F]
        at, edge = _outgoing(steps, states[0])
        token = steps.token[edge]
        moved = [m.next_state[s[at], token] for m, s in zip(machines, states[1:], strict=True)]
        paid = sum(m.reward[s[at], token].astype(float) for m, s in zip(machines, states[1:]))
        target = np.ravel_multi_index((steps.target[edge], *moved), sizes)
        found.append((frontier[at], token, target, steps.prob[edge], paid))
        frontier = np.setdiff1d(target, known)
        known = np.union1d(known, frontier)
    source, token, target, prob, paid = (np.concatenate(part) for part in zip(*found))
    order = np.argsort(source, kind="stable")
    source, token, target, prob, paid = (
        part[order] for part in (source, token, target, prob, paid)
    )
    source, target = np.searchsorted(known, source), np.searchsorted(known, target)
    return Product(Edges(source, token, target, prob, len(known)), paid, known)


def _outgoing(steps: Edges, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (position in `states`, edge) with the edge leaving that state; edges are sorted."""
    begin = np.searchsorted(steps.source, states)
    count = np.searchsorted(steps.source, states, side="right") - begin
    at = np.repeat(np.arange(len(states)), count)
    within = np.arange(len(at)) - np.repeat(np.cumsum(count) - count, count)
    return at, begin[at] + within


def tilt_step(joint: Product, eta: float, log_z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step back in time: log Z of each state from log Z of the states after it.

    log Z(s) = log sum_e p(e | s) exp(eta r(e) + log Z(target(e))); the optimum takes step e with
    probability p(e | s) exp(eta r(e) + log Z(target(e)) - log Z(s)).

    Args:
        joint: E steps over S joint states.
        eta: weight of the reward, 1 / kl_coef.
        log_z: [S], after the step.

    Returns:
        log Z before the step, [S], 0 where a text has ended, and the probability of each step, [E].
    """
    edges = joint.edges
    gain = np.log(edges.prob) + eta * joint.reward + log_z[edges.target]
    before = _log_sum(edges, gain)
    return before, np.exp(gain - before[edges.source])


def tilt(joint: Product, eta: float) -> Tilt:
    """Optimum of E[r] - KL / eta from every joint state, for texts that end by themselves.

    `tilt_step`, repeated until nothing changes.

    Args:
        joint: from `product`.
        eta: weight of the reward, 1 / kl_coef.

    Returns:
        Arrays [S] float64.

    Raises:
        GrammarError: the sums do not converge.
    """
    log_z = np.zeros(joint.edges.num_states)
    for _ in range(MAX_STEPS):
        updated, prob = tilt_step(joint, eta, log_z)
        if np.allclose(updated, log_z, rtol=0, atol=1e-12):
            break
        log_z = updated
    else:
        raise GrammarError(f"the optimum did not converge in {MAX_STEPS} rounds; eta={eta}")
    reward = expected_to_go(joint.edges._replace(prob=prob), joint.reward)
    return Tilt(log_z, reward, eta * reward - log_z)


def _log_sum(edges: Edges, values: np.ndarray) -> np.ndarray:
    """log sum exp over the steps out of each state; 0 where there are none, at the end."""
    top = np.full(edges.num_states, -np.inf)
    np.maximum.at(top, edges.source, values)
    top[np.isinf(top)] = 0.0
    total = np.bincount(edges.source, np.exp(values - top[edges.source]), edges.num_states)
    ends = np.bincount(edges.source, minlength=edges.num_states) == 0
    return top + np.log(np.where(ends, 1.0, total))


def joint_states(
    joint: Product, grammar: Grammar, machines: Sequence[Machine], tokens: np.ndarray
) -> np.ndarray:
    """Where openings leave the joint automaton.

    Args:
        joint: from `product` of the same grammar and machines.
        tokens: [N, P] openings that the grammar can write; padding on either side.

    Returns:
        [N] indices into the arrays of `Tilt`.
    """
    states = np.zeros((1 + len(machines), len(tokens)), np.int64)
    states[0] = run_states(grammar, tokens)[:, -1]
    for token in tokens.T:
        for i, machine in enumerate(machines, start=1):
            after = machine.next_state[states[i], token]
            states[i] = np.where(token == PAD, states[i], after)
    sizes = [len(grammar.probs), *(len(m.reward) for m in machines)]
    return np.searchsorted(joint.codes, np.ravel_multi_index(tuple(states), sizes))
