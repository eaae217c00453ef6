"""Best of n: of n completions of each prompt the one with the best score. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import BestOfNConfig, RejectionConfig, RLHFConfig
from rlhf_jax.models.functional import Model
from rlhf_jax.rollout.text import up_to_end
from rlhf_jax.sampling.decode import generate
from rlhf_jax.train.batches import in_batches, num_rows, repeat_rows, take
from rlhf_jax.types import Array, Key, Params, Sequences, SpecialTokens, TextRollout

Tree = TypeVar("Tree")
BestOfN = tuple[TextRollout, Array, Array]  # of the best [N], their scores [N], all scores [N, n]


def settings(config: RLHFConfig) -> BestOfNConfig | RejectionConfig:
    """The settings of the algorithm, where they are those of one that takes the best of n."""
    assert isinstance(config.algo, (BestOfNConfig, RejectionConfig))
    return config.algo


def make_samples(
    model: Model, config: RLHFConfig, *, special: SpecialTokens, batch_size: int = 128
):
    """`(params, prompts, key) -> TextRollout` [N * n], the n completions of a prompt in a row.

    No more than `batch_size` are drawn at a time, or n if that is more.
    """
    n = settings(config).n
    draw = make_draw(model, config, special)

    def samples(params: Params, prompts: Sequences, key: Key) -> TextRollout:
        one = lambda prompts, key: split_rows(draw(params, prompts, key), n)
        groups = map_prompts(one, prompts, key, batch_size // n)  # [N, n, ...]
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), groups)

    return samples


def make_draw(model: Model, config: RLHFConfig, special: SpecialTokens):
    """`(params, prompts, key) -> TextRollout` of n completions of each prompt, as one batch."""
    n = settings(config).n

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


def unbiased_best_of_n(values: np.ndarray) -> np.ndarray:
    """Expected value of the best of n, for every n up to N, from N samples.

    `sum_i C(i - 1, n - 1) / C(N, n) v_(i)`: the mean over all subsets of n samples, exactly. The
    weights come from their recurrence, `w(i) = w(i + 1) (i - n + 1) / i` from `w(N) = n / N`, so
    no binomial coefficient is ever formed.

    Args:
        values: float [..., N], in ascending order of the score that selects. They may be another
            quantity of the same samples: the gold score of the best by the proxy.

    Returns:
        float64 [..., N], in the unit of `values`; entry n - 1 is the best of n.

    Source: the best-of-n estimator of Nakano et al. 2021 (WebGPT), arXiv:2112.09332.

    >>> unbiased_best_of_n(np.array([0.0, 3.0, 6.0])).tolist()  # of 2: (3 + 6 + 6) / 3
    [3.0, 5.0, 6.0]
    """
    count = values.shape[-1]
    best_first = np.asarray(values, np.float64)[..., ::-1]
    ranks = np.arange(count - 1, 0, -1)  # i

    def expected(n: int) -> np.ndarray:
        shrink = np.cumprod(np.maximum(ranks - n + 1, 0) / ranks)
        return best_first @ np.concatenate([[1.0], shrink]) * (n / count)

    return np.stack([expected(n) for n in range(1, count + 1)], axis=-1)
