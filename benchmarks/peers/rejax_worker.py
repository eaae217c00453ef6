"""Trains rejax's PPO in its own environment: a line of settings in, `ready`; then seconds a line.

Runs under the pins of rejax.txt; knows nothing of rlhf_jax.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from rejax import PPO


def make(given: dict[str, Any]) -> PPO:
    """The algorithm; nothing is evaluated on the way, so that only training is timed."""
    algo = PPO.create(
        env=given["env"],
        total_timesteps=given["total_steps"],
        eval_freq=given["total_steps"],
        skip_initial_evaluation=True,
        num_envs=given["num_envs"],
        num_steps=given["num_steps"],
        num_epochs=given["epochs"],
        num_minibatches=given["minibatches"],
        learning_rate=given["learning_rate"],
        max_grad_norm=given["max_grad_norm"],
        gamma=given["gamma"],
        gae_lambda=given["gae_lambda"],
        clip_eps=given["clip_eps"],
        vf_coef=given["vf_coef"],
        ent_coef=given["entropy_coef"],
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": [given["width"]] * 2},
    )
    return algo.replace(eval_callback=lambda algo, state, rng: jnp.zeros(()))


def main() -> None:
    """Compiles once, then trains anew for each line that comes."""
    given = json.loads(sys.stdin.readline())
    algo = make(given)
    keys = jax.random.split(jax.random.PRNGKey(0), given["seeds"])
    train = jax.jit(jax.vmap(lambda key: PPO.train(algo, rng=key))).lower(keys).compile()
    jax.block_until_ready(train(keys))
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.monotonic()
        jax.block_until_ready(train(keys))
        print(time.monotonic() - start, flush=True)


if __name__ == "__main__":
    main()
