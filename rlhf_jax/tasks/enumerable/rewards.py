"""True rewards of the listed tasks: a table [prompts, completions] each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlhf_jax.tasks.tree import Tree

Reward = Callable[[Tree, np.ndarray, np.random.Generator], np.ndarray]
REPEAT_COST = 0.6  # gold lost by each repetition after the first
BONUS = 0.5  # of the standard deviation of the rest
NO_END = -1.0  # reward of a completion that should have ended


def bandit(tree: Tree, prompts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A number of its own for each arm in each context."""
    return rng.normal(size=(len(prompts), tree.size))


def token_tree(tree: Tree, prompts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Single letters (by prompt), pairs of neighbours, and a bonus that only whole texts show."""
    letters = tree.tokens() - tree.first  # [S, T]
    single = rng.normal(size=(len(prompts), tree.width))
    double = rng.normal(size=(tree.width, tree.width))
    additive = single[:, letters].sum(axis=-1)  # [P, S]
    additive += double[letters[:, :-1], letters[:, 1:]].sum(axis=-1)
    spread = additive.std()
    wanted = rng.integers(tree.width, size=(len(prompts), 2))  # first and last letter
    bonus = (letters[None, :, 0] == wanted[:, :1]) & (letters[None, :, -1] == wanted[:, 1:])
    return additive + BONUS * spread * bonus


def variable_length(tree: Tree, prompts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """1 for texts with the right first and last letter, of whatever length; they must end."""
    tokens = tree.tokens()
    wanted = tree.first + rng.integers(tree.width, size=(len(prompts), 2))
    lengths = (tokens >= tree.first).sum(axis=1)
    last = tokens[np.arange(len(tokens)), lengths - 1]
    right = (tokens[None, :, 0] == wanted[:, :1]) & (last[None] == wanted[:, 1:])
    return np.where(lengths[None] == tree.length, NO_END, right.astype(float))


def repetition(tree: Tree, prompts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each letter counts once, and repeating costs: what a model that counts letters misses.

    `sum_v w_v [v in y] - 0.6 max(repetitions - 1, 0)`, a repetition being two equal neighbours.
    """
    letters = tree.tokens() - tree.first
    weights = np.abs(rng.normal(size=(len(prompts), tree.width)))  # [P, V]
    repeats = (letters[:, 1:] == letters[:, :-1]).sum(axis=1)
    return weights @ presence(tree).T - REPEAT_COST * np.maximum(repeats - 1, 0)


def verifiable(tree: Tree, prompts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """1 if the completion solves the prompt's problem, else 0.

    The first letter of a prompt says which: the parity of the sum, the sum modulo the number of
    letters, or the two letters after it in reverse; `p_x` falls in this order.
    """
    del rng
    letters, asked = tree.tokens() - tree.first, prompts - tree.first  # [S, T], [P, 3]
    total = letters.sum(axis=1)
    parity = total[None] % 2 == asked[:, 1:2] % 2
    modular = total[None] % tree.width == asked[:, 1:2]
    reverse = (letters[None, :, 0] == asked[:, 2:3]) & (letters[None, :, 1] == asked[:, 1:2])
    kinds = np.stack([parity, modular, reverse])  # [3, P, S]
    return kinds[asked[:, 0], np.arange(len(prompts))].astype(float)


def presence(tree: Tree) -> np.ndarray:
    """Whether each letter occurs in each completion, [S, V]."""
    return (counts(tree) > 0).astype(float)


def counts(tree: Tree) -> np.ndarray:
    """How often each letter occurs in each completion, [S, V]."""
    letters = tree.tokens() - tree.first
    return (letters[:, :, None] == np.arange(tree.width)).sum(axis=1).astype(float)


REWARDS: dict[str, Reward] = {
    "bandit": bandit,
    "token_tree": token_tree,
    "variable_length": variable_length,
    "repetition": repetition,
    "verifiable": verifiable,
}
SCALED = ("bandit", "token_tree")  # to the standard deviation asked for, and mean 0
