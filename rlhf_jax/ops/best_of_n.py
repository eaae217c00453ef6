"""How far best-of-n sampling moves from the reference: KL(best of n || reference), in nats."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from rlhf_jax.types import Array


def best_of_n_kl_bound(n: float | Array) -> Array:
    """Upper bound, often mistaken for the KL itself: `log n - (n - 1) / n`.

    Exact where no two samples can be the same text; far off where the reference is nearly sure of
    a text, as its KL never exceeds `-log` of the probability of the best one.

    Args:
        n: >= 1, samples of which the best is taken; any shape.

    Returns:
        Shape of `n`, in nats, >= 0 up to rounding.

    Raises:
        Nothing; an `n` below 1 is the caller's to catch.

    Source: Section 3 of Beirami et al. 2024, arXiv:2401.01879; the formula is that of Stiennon et
    al. 2020, arXiv:2009.01325.

    >>> [round(float(best_of_n_kl_bound(n)), 4) for n in (1, 4, 64)]
    [0.0, 0.6363, 3.1745]
    """
    n = jnp.asarray(n, float)
    return jnp.log(n) - (n - 1) / n


def best_of_n_kl(n: float | Array, log_prob_of_selected: Array) -> Array:
    """Estimate from the text that was chosen; its mean over prompts estimates the KL.

    `(1 - e)^n (log n + (n - 1) log(1 - e) - (n - 1) / n) + w log(w / e)`, with `e` the reference's
    probability of the chosen text and `w = 1 - (1 - e)^n` the chance that n samples contain it: the
    exact KL if that text is the best of all and no other can come twice.

    Args:
        n: >= 1, scalar, samples of which the best was taken.
        log_prob_of_selected: float, any shape, of the chosen text under the reference, summed over
            its tokens.

    Returns:
        Same shape, in nats, >= 0 up to rounding; `best_of_n_kl_bound(n)` for an unlikely text and 0
        for a certain one.

    Raises:
        AssertionError: `n` is not a scalar, or the log-probabilities are not float.

    Source: Section 4 of Beirami et al. 2024, arXiv:2401.01879.

    >>> found = best_of_n_kl(4, jnp.log(jnp.array([0.5, 1e-9])))
    >>> [round(v, 4) for v in found.tolist()]  # a fair coin: at most log 2
    [0.4991, 0.6363]
    """
    chex.assert_rank(n, 0)
    chex.assert_type(log_prob_of_selected, float)
    dtype = log_prob_of_selected.dtype
    n = jnp.asarray(n, dtype)
    # Kept below 1, where log(1 - e) is -inf and 0 times it NaN.
    probs = jnp.minimum(jnp.exp(log_prob_of_selected), 1 - jnp.finfo(dtype).eps)
    log_rest = jnp.log1p(-probs)  # log(1 - e)
    won = -jnp.expm1(n * log_rest)  # w; 0 where e underflows
    rest = jnp.exp(n * log_rest) * (jnp.log(n) + (n - 1) * log_rest - (n - 1) / n)
    log_gain = jnp.log(jnp.where(won > 0, won, 1)) - log_prob_of_selected
    return rest + won * log_gain
