"""Checks in the loop: a run that has gone wrong says so, and what to try."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from rlhf_jax.config import RLHFConfig, UserError

# Largest deviation of the ratio from 1 before anything was learnt from a rollout: of its mean over
# tokens, and of any token. Reduced precision rounds by batch shape, so it is allowed more.
FULL_PRECISION, REDUCED_PRECISION = (1e-5, 1e-4), (2e-2, 2e-1)


class TrainingStopped(UserError):
    """Training cannot go on; says why and what to try."""


class Diverged(TrainingStopped):
    """The numbers of a run are lost: nothing it could go on with is finite."""


def check_finite(stage: str, streak: int, limit: int) -> None:
    """Stops a run whose last `limit` optimizer steps were all dropped as not finite.

    Raises:
      Diverged: it is such a run.
    """
    if streak >= limit:
        raise Diverged(
            f"{stage}: the last {streak} optimizer steps were dropped because the loss or its "
            f"gradient was not finite (run.max_skipped={limit}). Try a lower learning rate, a "
            "smaller max_grad_norm or model.dtype=float32."
        )


def ratio_check(config: RLHFConfig) -> Callable[[Mapping[str, float]], None]:
    """A check that the policy which is scored is the policy which sampled.

    On the first minibatch of the first epoch nothing has been learnt yet, so the probability
    ratio is 1 up to rounding; anything else is a mismatch of padding, temperature or precision
    between sampling and scoring, and every later number would be wrong.

    The check raises TrainingStopped, or Diverged where the ratio is not finite.
    """
    full = config.model.dtype == config.run.matmul_precision == "float32"
    mean_tolerance, token_tolerance = FULL_PRECISION if full else REDUCED_PRECISION

    def check(metrics: Mapping[str, float]) -> None:
        mean, worst = metrics["val/ratio_first"], metrics["val/ratio_first_error"]
        if not math.isfinite(mean + worst):
            raise Diverged(
                f"{config.algo.name}: val/ratio_first={mean}: log-probabilities are not finite. "
                "Try a lower learning rate, a smaller max_grad_norm or model.dtype=float32."
            )
        if not (abs(mean - 1.0) <= mean_tolerance and worst <= token_tolerance):
            raise TrainingStopped(
                f"{config.algo.name}: val/ratio_first={mean:.6f}, but it must be 1 within "
                f"{mean_tolerance:g} (and within {token_tolerance:g} at every token; the worst is "
                f"off by {worst:.2g}): the "
                "log-probabilities of the sampler and of the forward pass differ. Try "
                "algo.behavior_log_probs=forward."
            )

    return check
