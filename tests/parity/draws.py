"""Random inputs. The first draws are edges, the rest ordinary; float64, cast by the caller."""

from __future__ import annotations

import numpy as np

Arrays = dict[str, np.ndarray]
DRAWS = 24
ROWS, LENGTH, VOCAB = 4, 7, 11
FULL, SINGLE, ON_POLICY, NO_ADVANTAGE, FAR, CERTAIN = range(6)  # the edges, by draw


def lengths(rng: np.random.Generator, draw: int, rows: int = ROWS) -> np.ndarray:
    """Real tokens in each row: all, one, or anything from 1 up."""
    if draw == FULL:
        return np.full(rows, LENGTH)
    return np.ones(rows, int) if draw == SINGLE else rng.integers(1, LENGTH + 1, rows)


def ragged(rng: np.random.Generator, draw: int, rows: int = ROWS) -> np.ndarray:
    """bool [rows, LENGTH], True up to a length of at least one."""
    return np.arange(LENGTH)[None] < lengths(rng, draw, rows)[:, None]


def log_probs(rng: np.random.Generator, draw: int, shape: tuple[int, ...]) -> np.ndarray:
    """Of sampled tokens: around -2, or around -1e-3 where the policy is certain."""
    scale = 1e-3 if draw == CERTAIN else 2.0
    return -scale * rng.exponential(size=shape)


def near(rng: np.random.Generator, draw: int, x: np.ndarray, far: float = 4.0) -> np.ndarray:
    """Log-probabilities of another policy: a bit off, equal, or far off."""
    spread = {ON_POLICY: 0.0, FAR: far}.get(draw, 0.3)
    return x - spread * rng.normal(size=x.shape)


def advantages(rng: np.random.Generator, draw: int, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape) * (draw != NO_ADVANTAGE)


def policy_batch(rng: np.random.Generator, draw: int) -> Arrays:
    """Completions with an advantage each; the numbers on padding are as random as the others."""
    ours = log_probs(rng, draw, (ROWS, LENGTH))
    return {
        "log_probs": ours,
        "behavior_log_probs": near(rng, draw, ours),
        "advantages": advantages(rng, draw, (ROWS,)),
        "mask": ragged(rng, draw),
    }


def clips(rng: np.random.Generator) -> Arrays:
    low, high = rng.uniform(0.05, 0.4), rng.uniform(0.05, 0.6)
    return {"epsilon": np.array(low), "epsilon_high": np.array(high)}


def logits(rng: np.random.Generator, draw: int, *shape: int) -> np.ndarray:
    """[*shape, VOCAB]: flat, ordinary, or nearly certain.

    Not larger: TRL takes `exp(logit - logsumexp)`, which loses the digits of the larger of the two.
    """
    scale = {FULL: 0.0, CERTAIN: 6.0}.get(draw, 3.0)
    return rng.uniform(-scale, scale, size=(*shape, VOCAB))


def tokens(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, VOCAB, shape, dtype=np.int32)


def preference_batch(rng: np.random.Generator, draw: int) -> Arrays:
    """[2 ROWS, LENGTH]: the chosen completions, then the rejected ones."""
    ours = log_probs(rng, draw, (2 * ROWS, LENGTH))
    return {
        "log_probs": ours,
        "ref_log_probs": near(rng, draw, ours, far=1.5),
        "mask": ragged(rng, draw, 2 * ROWS),
        "beta": np.array(rng.uniform(0.05, 0.5)),
    }


def number(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return np.array(rng.uniform(low, high))
