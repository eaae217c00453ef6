"""Answers from rlax. It works on single streams [T]: rows are vmapped, padding is left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rlax
from protocol import Arrays, cotangent, serve


def gae(rewards, discounts, values, gae_lambda):
    row = partial(rlax.truncated_generalized_advantage_estimation, lambda_=gae_lambda)
    return jax.vmap(lambda r, d, v: row(r_t=r, discount_t=d, values=v))(rewards, discounts, values)


def lambda_returns(rewards, discounts, values, gae_lambda):
    row = partial(rlax.lambda_returns, lambda_=gae_lambda)
    return jax.vmap(row)(rewards, discounts, values[:, 1:])


def vtrace_targets(rewards, discounts, values, gae_lambda):
    """On-policy: every importance ratio is 1."""
    row = partial(rlax.vtrace, lambda_=gae_lambda, stop_target_gradients=False)
    v_tm1, v_t = values[:, :-1], values[:, 1:]
    return v_tm1 + jax.vmap(row)(v_tm1, v_t, rewards, discounts, jnp.ones_like(rewards))


def clipped_surrogate(log_probs, behavior_log_probs, advantages, mask, epsilon):
    """rlax takes ratios, knows no mask, and divides by the number of slots."""
    ratios = jnp.exp(log_probs - behavior_log_probs)
    kept = jnp.where(mask, advantages, 0)
    return rlax.clipped_surrogate_pg_loss(ratios.ravel(), kept.ravel(), epsilon)


def policy_gradient(logits, tokens, advantages, mask):
    flat = logits.reshape(-1, logits.shape[-1]), tokens.ravel(), advantages.ravel()
    return rlax.policy_gradient_loss(*flat, mask.ravel().astype(logits.dtype))


FUNCTIONS = {
    "gae": gae,
    "lambda_returns": lambda_returns,
    "vtrace_targets": vtrace_targets,
    "clipped_surrogate": clipped_surrogate,
    "policy_gradient": policy_gradient,
    "log_prob": lambda logits, tokens: rlax.softmax().logprob(tokens, logits),
    "entropy": lambda logits: rlax.softmax().entropy(logits),
    "kl": lambda logits, ref_logits: rlax.softmax().kl(logits, ref_logits),
    "l2_loss": lambda values, returns: rlax.l2_loss(values, returns),
    "huber_loss": lambda values, returns, delta: rlax.huber_loss(values - returns, delta),
}


@cache
def program(function: str, wrt: tuple[str, ...]) -> Callable[..., Any]:
    """Value and gradients, compiled once for all draws."""

    def run(by, rest):
        value, pullback = jax.vjp(lambda by: FUNCTIONS[function](**by, **rest), by)
        return value, pullback(jnp.asarray(cotangent(value.shape), value.dtype))[0]

    return jax.jit(run)


def evaluate(function: str, arrays: Arrays, wrt: list[str], options: dict[str, Any]) -> Arrays:
    assert not options, "rlax's functions get arrays only"
    with jax.enable_x64(any(x.dtype == np.float64 for x in arrays.values())):
        inputs = {name: jnp.asarray(x) for name, x in arrays.items()}
        rest = {name: x for name, x in inputs.items() if name not in wrt}
        value, grads = program(function, tuple(wrt))({name: inputs[name] for name in wrt}, rest)
    return {"value": np.asarray(value)} | {f"grad_{k}": np.asarray(g) for k, g in grads.items()}


if __name__ == "__main__":
    serve(evaluate)
