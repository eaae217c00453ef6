"""Rows that calibrate the card: policies that are written down instead of trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rlhf_jax.exact.optimum import best_of_n, divergence, mean_reward, tilt
from rlhf_jax.lab.bench import Bench, Place, listed
from rlhf_jax.lab.programs import each_lane, known, make_gradient, make_look
from rlhf_jax.lab.rows import Plan, card_row, finite
from rlhf_jax.types import Array, Metrics, Params

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
    tx, beta = optax.adam(RATE), jnp.float32(plan.beta)
    gradient, look = make_gradient(bench), make_look(bench)

    @jax.jit
    def climb(params: Params, moments: Any, gradient: Params) -> tuple[Params, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            downhill = jax.tree.map(jnp.negative, gradient)
            change, moments = tx.update(downhill, moments, params)
        return optax.apply_updates(params, change), moments  # pyright: ignore

    def curve(place: Place) -> Metrics:
        params, found, target = place.frozen.reference, [], jnp.full_like(place.ref, jnp.nan)
        moments = tx.init(params)
        for i in range(len(plan.budgets)):
            for _ in range(FIRST * (2**i - 2**i // 2)):
                params, moments = climb(params, moments, gradient(params, place, beta))
            found.append(look(params, place, target, beta))
        return jax.tree.map(lambda *x: jnp.stack(x), *found)

    return each_lane(curve, (bench.places,))


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
