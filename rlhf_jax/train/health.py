"""Checks in the loop: a run that has gone wrong says so, and what to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlhf_jax.config import RLHFConfig, UserError

# Largest deviation of the mean ratio from 1 before anything was learnt from a rollout.
RATIO_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


class TrainingStopped(UserError):
    """Training cannot go on; says why and what to try."""


def check_finite(stage: str, streak: int, limit: int) -> None:
    """Stops a run whose last `limit` optimizer steps were all dropped as not finite."""
    if streak >= limit:
        raise TrainingStopped(
            f"{stage}: the last {streak} optimizer steps were dropped because the loss or its "
            f"gradient was not finite (run.max_skipped={limit}). Try a lower learning rate, a "
            "smaller max_grad_norm or model.dtype=float32."
        )


def ratio_check(config: RLHFConfig) -> Callable[[Mapping[str, float]], None]:
    """A check that the policy which is scored is the policy which sampled.

    On the first minibatch of the first epoch nothing has been learnt yet, so the probability
    ratio is 1 up to rounding; anything else is a mismatch of padding, temperature or precision
    between sampling and scoring, and every later number would be wrong.
    """
    tolerance = RATIO_TOLERANCE[config.model.dtype]

    def check(metrics: Mapping[str, float]) -> None:
        ratio = metrics["val/ratio_first"]
        if abs(ratio - 1.0) > tolerance:
            raise TrainingStopped(
                f"ppo: val/ratio_first={ratio:.6f}, but it must be 1 within {tolerance:g}: the "
                "log-probabilities of the sampler and of the forward pass differ. Try "
                "algo.behavior_log_probs=forward."
            )

    return check
