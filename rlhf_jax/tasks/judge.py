"""An independent judge: logistic regression on words and word pairs, for short texts.

It is fitted to labelled texts the policy's reward never saw, so it tells a better text from a
fooled reward model. Windows of the texts are its examples: it must judge a few dozen words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, sparse, special

from rlhf_jax.io.atomic import replacing
from rlhf_jax.tasks.packages import cache_root, content_key

_WORD = re.compile(r"[a-z0-9']+|[!?]")
_BITS = 18  # hashed features: 262,144
_VERSION = "1"  # part of the cache key: raise it when the fit changes


class Judge(NamedTuple):
    """Weights of the hashed features [2**18] and the bias; call it with texts."""

    weights: np.ndarray
    bias: float

    def __call__(self, texts: list[str]) -> list[float]:
        """Probability that each text is positive."""
        logits = _features([_words(t) for t in texts]) @ self.weights + self.bias
        return special.expit(logits).tolist()


def fit_judge(
    texts: Sequence[str], labels: Sequence[int], *, seed: int = 0, windows: int = 2, l2: float = 0.1
) -> Judge:
    """Fits a judge to whole texts and `windows` random windows of 15 to 60 words of each.

    Features are scaled by their log-count ratio first (Wang and Manning 2012, section 2.3).

    >>> judge = fit_judge(["a good good film", "a bad bad film"] * 8, [1, 0] * 8)
    >>> [p > 0.5 for p in judge(["good", "bad"])]
    [True, False]
    """
    rng = np.random.default_rng(seed)
    words = [_words(text) for text in texts]
    cut = [_window(w, rng) for _ in range(windows) for w in words]
    positive = np.asarray(labels, np.float64)
    whole, short = _features(words), _features(cut)  # [N, F], [windows * N, F]
    ratio = _log_count_ratio(whole, positive)
    x = sparse.vstack([whole, short], format="csr") @ sparse.diags_array(ratio)
    weights = ratio * _fit_logistic(x, np.tile(positive, 1 + windows), l2)
    # As many windows on either side of one half: a short text holds little evidence, and without
    # this it would lean to the side whose words are the commoner.
    bias = -float(np.median(short @ weights)) if windows else 0.0
    return Judge(weights.astype(np.float32), bias)


def _log_count_ratio(x: sparse.csr_matrix, positive: np.ndarray) -> np.ndarray:
    """How much likelier each feature is in positive texts, in logs: [F]."""
    present = sparse.csr_matrix((np.ones_like(x.data), x.indices, x.indptr), shape=x.shape)
    liked = 1.0 + np.asarray(positive @ present)
    disliked = 1.0 + np.asarray((1.0 - positive) @ present)
    return np.log(liked / liked.sum()) - np.log(disliked / disliked.sum())


def _fit_logistic(x: sparse.csr_matrix, positive: np.ndarray, l2: float) -> np.ndarray:
    """Weights of an L2-penalised logistic regression whose bias is fitted and dropped."""
    sign = 2.0 * positive - 1.0  # [N]
    transposed = x.T.tocsr()

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ theta[:-1] + theta[-1])
        slope = -sign * special.expit(-margin)
        gradient = np.append(transposed @ slope + l2 * theta[:-1], slope.sum())
        return np.logaddexp(0.0, -margin).sum() + 0.5 * l2 * (theta[:-1] ** 2).sum(), gradient

    start = np.zeros(transposed.shape[0] + 1)
    # 30 steps: more fit the training windows only.
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 30})
    return found.x[:-1]


def cached_judge(
    texts: Sequence[str], labels: Sequence[int], *, seed: int = 0, cache_dir: str | None = None
) -> Judge:
    """`fit_judge`, kept in the cache under a hash of its data."""
    key = content_key(_VERSION, str(seed), bytes(bytearray(labels)), *texts)
    path = cache_root(cache_dir) / "judges" / f"judge-{key}.npz"
    if not path.exists():
        judge = fit_judge(texts, labels, seed=seed)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, weights=judge.weights, bias=judge.bias)
    with np.load(path) as saved:
        return Judge(saved["weights"], float(saved["bias"]))


def accuracy(judge: Judge, texts: list[str], labels: Sequence[int]) -> float:
    """Share of texts on the right side of one half."""
    return float(np.mean((np.array(judge(texts)) > 0.5) == (np.asarray(labels) > 0)))


def _words(text: str) -> np.ndarray:
    """Hashes of the words of a text, uint64."""
    return np.array([zlib.crc32(w.encode()) for w in _WORD.findall(text.lower())], np.uint64)


def _window(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = int(rng.integers(15, 61))
    start = int(rng.integers(0, max(1, len(words) - size + 1)))
    return words[start : start + size]


def _features(texts: Sequence[np.ndarray]) -> sparse.csr_matrix:
    """Presence of every word and neighbouring pair, scaled to unit length: [N, 2**18]."""
    rows = [_buckets(words) for words in texts]
    sizes = np.array([len(row) for row in rows], np.int64)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    scale = np.repeat(1.0 / np.sqrt(np.maximum(sizes, 1)), sizes).astype(np.float32)
    indices = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    return sparse.csr_matrix((scale, indices, indptr), shape=(len(rows), 1 << _BITS))


def _buckets(words: np.ndarray) -> np.ndarray:
    # Fibonacci hashing spreads the sums of two word hashes; unequal factors keep the order.
    pairs = words[:-1] * np.uint64(3) + words[1:] * np.uint64(5) + np.uint64(1)
    mixed = np.concatenate([words, pairs]) * np.uint64(0x9E3779B97F4A7C15)
    return np.unique((mixed >> np.uint64(64 - _BITS)).astype(np.int32))
