"""The KL-regularised optimum of a walk from every state and time, by recursion back from its end.

Facts A1 to A5 of the exact-optimum suite: with eta = 1 / beta the optimum of E[r] - beta KL is
pi*(y) = p(y) e^{eta r(y)} / Z, its objective beta log Z, its KL eta E[r] - log Z, and no policy of
that KL or less has a larger expected reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.tasks.automaton.walk import Walk
from rlhf_jax.tasks.reviews.exact import expect
from rlhf_jax.tasks.reviews.optimum import tilt_step


class TimedTilt(NamedTuple):
    """The policy p(y) e^{eta r(y)} / Z from each state at each time; eta = 0 is the reference.

    Row t stands before the completion's token t, row T after the last; all of what follows.
    """

    eta: float  # 1 / beta
    log_z: np.ndarray  # [T + 1, S], log E_p[e^{eta r}]
    reward: np.ndarray  # [T + 1, S], expected reward to go
    variance: np.ndarray  # [T + 1, S], of the reward to go

    @property
    def kl(self) -> np.ndarray:
        """KL to the reference of what follows in nats, [T + 1, S]."""
        return self.eta * self.reward - self.log_z

    @property
    def value(self) -> np.ndarray:
        """V* = beta log Z, the best E[r] - beta KL of what follows, [T + 1, S]."""
        return self.log_z / self.eta if self.eta else self.reward


class Envelope(NamedTuple):
    """The most reward that any policy can have at a KL; means over the prompts."""

    eta: np.ndarray  # [M]
    kl: np.ndarray  # [M], nats
    reward: np.ndarray  # [M]
    variance: np.ndarray  # [M], of the reward


def tilt_horizon(walk: Walk, eta: float) -> TimedTilt:
    """Solves a walk for one weight of the reward.

    log Z_t(s) = log sum_e p(e | s) e^{eta r(e) + log Z_{t+1}(target(e))}, log Z_T = 0; mean and
    variance of the reward follow with the steps' probabilities under the optimum, the variance
    as that of the means plus the mean of the variances.

    Args:
        walk: texts and rewards.
        eta: 1 / beta; 0 is the reference, below 0 avoids reward.

    >>> from rlhf_jax.tasks.automaton.walk import make_walk
    >>> from rlhf_jax.tasks.reviews.grammar import compile_grammar
    >>> from rlhf_jax.tasks.reviews.machines import Machine
    >>> coin = compile_grammar("A = heads | tails")
    >>> pays = Machine(np.zeros((1, 5), np.int32), np.eye(5, dtype=np.float32)[3:4])
    >>> solved = tilt_horizon(make_walk(coin, [pays], np.array([[1]]), 2), 1.0)
    >>> round(float(solved.log_z[0].max()), 6)  # log((1 + e) / 2)
    0.620115
    """
    joint, edges = walk.joint, walk.joint.edges
    log_z, mean, variance = np.zeros((3, walk.horizon + 1, edges.num_states))
    for t in reversed(range(walk.horizon)):
        log_z[t], prob = tilt_step(joint, eta, log_z[t + 1])
        tilted, to_go = edges._replace(prob=prob), joint.reward + mean[t + 1, edges.target]
        mean[t] = expect(tilted, to_go)
        spread = (to_go - mean[t, edges.source]) ** 2
        variance[t] = expect(tilted, spread + variance[t + 1, edges.target])
    return TimedTilt(eta, log_z, mean, variance)


def step_probs(walk: Walk, solved: TimedTilt, t: int) -> np.ndarray:
    """Chance under the optimum of each step out of its state, before token t: [E]."""
    return tilt_step(walk.joint, solved.eta, solved.log_z[t + 1])[1]


def policy_table(walk: Walk, solved: TimedTilt, t: int, vocab_size: int) -> np.ndarray:
    """pi*(token | state, t), [S, V]; rows of states in which texts have ended are 0."""
    edges = walk.joint.edges
    table = np.zeros((edges.num_states, vocab_size))
    table[edges.source, edges.token] = step_probs(walk, solved, t)
    return table


def envelope(walk: Walk, etas: Sequence[float] | np.ndarray) -> Envelope:
    """KL(eta), E_eta[r] and Var_eta[r] of the optimum, as means over the prompts.

    For small eta the reward rises by sqrt(2 Var KL).
    """
    rows = []
    for eta in etas:
        solved = tilt_horizon(walk, float(eta))
        at = (solved.kl, solved.reward, solved.variance)
        rows.append([x[0, walk.starts].mean() for x in at])
    kl, reward, variance = np.array(rows).reshape(-1, 3).T
    return Envelope(np.asarray(etas, float), kl, reward, variance)


def reference_entropy(walk: Walk) -> np.ndarray:
    """Entropy of the reference's completions of each prompt in nats, [K]."""
    edges = walk.joint.edges
    entropy = np.zeros(edges.num_states)
    for _ in range(walk.horizon):
        entropy = expect(edges, entropy[edges.target] - np.log(edges.prob))
    return entropy[walk.starts]
