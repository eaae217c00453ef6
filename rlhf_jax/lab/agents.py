"""Rows that calibrate the card: policies that are written down instead of trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rlhf_jax.exact.optimum import best_of_n, divergence, mean_reward, objective, tilt
from rlhf_jax.lab.bench import Bench, Place, known, listed, log_probs_of
from rlhf_jax.lab.rows import Plan, card_row, finite
from rlhf_jax.types import Array, Params

CHOICES = (4, 16)  # n of best-of-n
RATE = 3e-3  # of Adam on the exact gradient
FIRST = 2  # its updates at the smallest budget; as many again at each doubling
ETAS = np.geomspace(0.02, 50.0, 60)  # inverse temperatures of an envelope's points


def calibration_rows(bench: Bench, plan: Plan) -> list[dict[str, Any]]:
    """`optimal`, `reference`, `best_of_N` and `exact_gradient`, a row for each instance."""
    written = {"optimal": lambda place: tilt(place.ref, place.rewards, plan.beta)}
    written["reference"] = lambda place: place.ref
    for n in CHOICES:
        written[f"best_of_{n}"] = lambda place, n=n: best_of_n(place.ref, place.rewards, n)
    rows = []
    for name, policy in written.items():
        look = jax.jit(jax.vmap(lambda place, f=policy: known(f(place), place, plan.beta)))
        found = jax.device_get(look(bench.places))
        same = {k: np.repeat(v[:, None], len(plan.budgets), axis=1) for k, v in found.items()}
        rows += rows_of(bench, plan, name, same)
    return rows + rows_of(bench, plan, "exact_gradient", exact_gradient(bench, plan))


def exact_gradient(bench: Bench, plan: Plan) -> dict[str, np.ndarray]:
    """Adam on the exact gradient of J, looked at after 2, 4, 8... updates."""
    tx = optax.adam(RATE)

    def loss(params: Params, place: Place) -> Array:
        log_probs = log_probs_of(bench, params, place.prompts)
        return -objective(log_probs, place.ref, place.rewards, plan.beta)

    def update(_: Array, carry: tuple[Params, Any], place: Place) -> tuple[Params, Any]:
        params, moments = carry
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            change, moments = tx.update(jax.grad(loss)(params, place), moments, params)
        stepped: Params = optax.apply_updates(params, change)  # pyright: ignore
        return stepped, moments

    def advance(carry: tuple[Params, Any], place: Place, count: Array):
        return lax.fori_loop(0, count, lambda i, c: update(i, c, place), carry)

    go_on = jax.jit(jax.vmap(advance, in_axes=(0, 0, None)))
    look = jax.jit(
        jax.vmap(lambda p, place: known(log_probs_of(bench, p, place.prompts), place, plan.beta))
    )
    params = bench.places.frozen.reference
    carry, found, done = (params, jax.vmap(tx.init)(params)), [], 0
    for i in range(len(plan.budgets)):
        steps = FIRST * 2**i
        carry = go_on(carry, bench.places, jnp.asarray(steps - done, jnp.int32))
        found.append(jax.device_get(look(carry[0], bench.places)))
        done = steps
    return jax.tree.map(lambda *x: np.stack(x, axis=1), *found)


def rows_of(
    bench: Bench, plan: Plan, name: str, found: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """A card row for each instance; `found` holds [I, budgets]."""
    rows = []
    for i, task in enumerate(bench.tasks):
        at = {k: [finite(x) for x in v[i]] for k, v in found.items()}
        rows.append(card_row(task.name, name, listed(task).number, None, plan, at))
    return rows


def envelopes(bench: Bench) -> dict[str, dict[str, list[float]]]:
    """KL and reward along the tilt of each instance: no policy is above the curve."""

    def point(place: Place, eta: Array) -> tuple[Array, Array]:
        policy = tilt(place.ref, eta * place.rewards, 1.0)
        return divergence(policy, place.ref), mean_reward(policy, place.rewards)

    etas = jnp.asarray(ETAS, jnp.float32)
    kl, reward = jax.jit(jax.vmap(lambda place: lax.map(lambda e: point(place, e), etas)))(
        bench.places
    )
    return {
        f"{task.name}/{listed(task).number}": {"kl": kl[i].tolist(), "reward": reward[i].tolist()}
        for i, task in enumerate(bench.tasks)
    }
