"""Best of n: of n completions of each prompt the one with the best score. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import RLHFConfig
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.best_of_n import best_of_n_kl, best_of_n_kl_bound
from rlhf_jax.rollout.text import up_to_end
from rlhf_jax.sampling.decode import generate
from rlhf_jax.train.batches import in_batches, num_rows, repeat_rows, take
from rlhf_jax.types import Array, Key, Params, Sequences, SpecialTokens, TextRollout

Tree = TypeVar("Tree")
BestOfN = tuple[TextRollout, Array, Array]  # of the best [N], their scores [N], all scores [N, n]


def make_samples(
    model: Model, config: RLHFConfig, *, n: int, special: SpecialTokens, batch_size: int = 128
):
    """`(params, prompts, key) -> TextRollout` [N * n], the n completions of a prompt in a row.

    No more than `batch_size` are drawn at a time, or n if that is more.
    """
    draw = make_draw(model, config, n, special)

    def samples(params: Params, prompts: Sequences, key: Key) -> TextRollout:
        one = lambda prompts, key: split_rows(draw(params, prompts, key), n)
        groups = map_prompts(one, prompts, key, batch_size // n)  # [N, n, ...]
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), groups)

    return samples


def make_draw(model: Model, config: RLHFConfig, n: int, special: SpecialTokens):
    """`(params, prompts, key) -> TextRollout` of n completions of each prompt, as one batch."""

    def draw(params: Params, prompts: Sequences, key: Key) -> TextRollout:
        rollout = generate(
            model,
            params,
            repeat_rows(prompts, n),
            key,
            config=config.model,
            sampling=config.sampling,
            special=special,
        )
        return up_to_end(rollout, special)

    return draw


def split_rows(tree: Tree, n: int) -> Tree:
    """[N * n, ...] to [N, n, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]), tree)


def map_prompts(f: Callable[[Sequences, Key], Tree], prompts: Sequences, key: Key, size: int):
    """`f` on batches of `size` prompts, at least 1, one after the other, each with its own key."""
    batches = in_batches(prompts, max(size, 1))
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_rows(batches)))
    results = jax.lax.map(lambda batch: f(*batch), (batches, keys))
    flat = lambda x: x.reshape(-1, *x.shape[2:])[: num_rows(prompts)]
    return jax.tree.map(flat, results)


def select_best(rollout: TextRollout, scores: Any) -> BestOfN:
    """The best of each group of n rows by `scores` [N, n], for arrays of jax or of numpy."""
    count, n = scores.shape
    rows = np.arange(count, dtype=np.int32) * n + scores.argmax(axis=1)
    return take(rollout, jnp.asarray(rows)), scores.max(axis=1), scores


def worth(
    most: int, scores: np.ndarray, gold: np.ndarray | None, log_probs: Array
) -> Iterator[dict[str, float]]:
    """Mean score, gold and KL of the best of 1, 2, ... `most` completions of each prompt.

    `scores`, `gold` and `log_probs` [N * most] are those of the completions under the reference.
    """
    groups = scores.reshape(-1, most)
    order = np.argsort(groups, axis=1)
    ranked = lambda x: np.take_along_axis(np.asarray(x).reshape(-1, most), order, axis=1)
    columns = {"objective/scores": ranked(scores)}
    if gold is not None:
        columns["gold/score"] = ranked(gold)
    likely, kl_of = jnp.asarray(ranked(log_probs)), jax.jit(best_of_n_kl)
    for n in range(1, most + 1):
        found = columns | {"objective/kl": np.asarray(kl_of(float(n), likely))}
        row = {k: float(expected_best(x, n).mean()) for k, x in found.items()}
        yield row | {"objective/kl_bound": float(best_of_n_kl_bound(n))}


def expected_best(values: np.ndarray, n: int) -> np.ndarray:
    """Expected value of the best of n, from N >= n samples.

    `sum_i C(i - 1, n - 1) / C(N, n) v_(i)`: the mean over all subsets of n samples, exactly. The
    weights come from their recurrence, `w(i) = w(i + 1) (i - n + 1) / i` from `w(N) = n / N`, so
    no binomial coefficient is ever formed.

    Args:
        values: float [..., N], in ascending order of the score that selects. They may be another
            quantity of the same samples: the gold score of the best by the proxy.
        n: 1 to N.

    Returns:
        float64 [...], in the unit of `values`.

    Source: the best-of-n estimator of Nakano et al. 2021 (WebGPT), arXiv:2112.09332.

    >>> float(expected_best(np.array([0.0, 3.0, 6.0]), 2))  # (3 + 6 + 6) / 3
    5.0
    """
    count = values.shape[-1]
    ranks = np.arange(count - 1, 0, -1)  # i
    shrink = np.cumprod(np.maximum(ranks - n + 1, 0) / ranks)
    weights = np.concatenate([[1.0], shrink]) * (n / count)
    return np.asarray(values, np.float64)[..., ::-1] @ weights
