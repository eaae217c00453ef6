"""Where the texts of a listed task come from: a random source, sampled and known exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_jax.tasks.tokens import EOS
from rlhf_jax.tasks.tree import Tree

FLOOR = 0.15  # share of each row that is uniform: no completion is all but impossible


class Source(NamedTuple):
    """A Markov chain over letters that starts from the last letter of the prompt."""

    rows: np.ndarray  # [prompts, V, V], chance of the next letter after a letter
    stop: float  # chance of an end after each letter, where there are ends

    def log_probs(self, tree: Tree, prompts: np.ndarray) -> np.ndarray:
        """Log-probability of every completion after every prompt, [P, S] float64."""
        return np.stack(
            [self._after(tree, rows, prompt) for rows, prompt in zip(self.rows, prompts)]
        )

    def _after(self, tree: Tree, rows: np.ndarray, prompt: np.ndarray) -> np.ndarray:
        tokens = tree.tokens()  # [S, T]
        total, last = np.zeros(len(tokens)), np.full(len(tokens), prompt[-1] - tree.first)
        for t, column in enumerate(tokens.T):
            letter = column - tree.first
            real = letter >= 0
            go_on = np.log1p(-self.stop) if tree.ends and t > 0 else 0.0
            step = go_on + np.log(rows[last, np.where(real, letter, 0)])
            total += np.where(real, step, np.where(column == EOS, np.log(self.stop or 1.0), 0.0))
            last = np.where(real, letter, last)
        return total


def draw_source(
    tree: Tree, prompts: int, concentration: float, stop: float, rng: np.random.Generator
) -> Source:
    """Rows from a Dirichlet distribution, mixed with the uniform one.

    Args:
        concentration: of the Dirichlet; large is close to uniform, small close to certain.
        stop: chance of an end after each letter; not read without ends.
    """
    shared = rng.dirichlet(np.full(tree.width, concentration), size=tree.width)  # [V, V]
    own = rng.dirichlet(np.full(tree.width, concentration), size=(prompts, tree.width))
    uniform = 1.0 / tree.width
    rows = (1 - FLOOR) * 0.5 * (shared[None] + own) + FLOOR * uniform
    return Source(rows, stop if tree.ends else 0.0)


def draw(log_probs: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of completions drawn for each prompt: [P, S] to [P, count]."""
    probs = np.exp(log_probs)
    probs /= probs.sum(axis=1, keepdims=True)
    return np.stack([rng.choice(len(p), count, p=p) for p in probs])
