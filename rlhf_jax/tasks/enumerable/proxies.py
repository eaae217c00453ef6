"""Rewards that are not the truth: fitted to few features of few labels, or the truth with noise."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from rlhf_jax.tasks.enumerable import rewards
from rlhf_jax.tasks.tree import Tree

RIDGE = 1e-3
TAILS = {"gaussian": lambda rng, shape: rng.normal(size=shape)}
TAILS["heavy_tail"] = lambda rng, shape: rng.standard_t(2, size=shape)


def features(tree: Tree, kind: str) -> np.ndarray:
    """What a reward model of a kind sees of each completion, [S, F]."""
    seen = [rewards.counts(tree)]
    if kind == "presence":
        seen.append(rewards.presence(tree))
    return np.concatenate(seen, axis=1)


def fit_bradley_terry(
    seen: np.ndarray, better: np.ndarray, worse: np.ndarray, groups: np.ndarray, count: int
) -> np.ndarray:
    """Weights [count, F] of a linear reward in each group, by maximum likelihood.

    Args:
        seen: [S, F] features of every completion.
        better, worse: [N] numbers of completions; groups: [N] in [0, count), their prompt.
    """
    weights = np.zeros((count, seen.shape[1]))
    for group in range(count):
        rows = groups == group
        gaps = seen[better[rows]] - seen[worse[rows]]  # [n, F]

        def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
            margin = gaps @ w  # noqa: B023
            value = np.logaddexp(0.0, -margin).mean() + RIDGE * w @ w
            slope = -gaps.T @ (1 / (1 + np.exp(margin))) / len(margin) + 2 * RIDGE * w  # noqa: B023
            return float(value), slope

        if rows.any():
            weights[group] = minimize(loss, weights[group], jac=True, method="L-BFGS-B").x
    return weights


def learned(
    tree: Tree, kind: str, better: np.ndarray, worse: np.ndarray, groups: np.ndarray, count: int
) -> np.ndarray:
    """Rewards [P, S] by a linear model over counts of letters, or these and their presence."""
    seen = features(tree, kind)
    return fit_bradley_terry(seen, better, worse, groups, count) @ seen.T


def noisy(gold: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Truth plus independent noise of its own size, Gaussian or heavy-tailed (Student's t, 2)."""
    noise = TAILS[kind](rng, gold.shape)
    return gold + gold.std() * noise
