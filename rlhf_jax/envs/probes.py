"""Environments of one or two steps, each of which can fail for one reason only.

`constant`: one step, reward 1 whatever happens; tests the value loss and the optimizer.
`observation`: one step, the reward is the observation, -1 or 1; tests that values see the state.
`delay`: two steps, observations 0 and then 1, reward 1 at the end; tests discounting.
`action`: one step, reward 1 for action 1 and -1 for action 0; tests the policy's loss.
`both`: one step, the reward is 1 if the action is 1 where the observation is 1, or 0 where it is
-1, and else -1; tests that states and actions are matched.

Source: Jones 2021, "Debugging reinforcement learning systems, without the agonizing pain".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.config import ProbeConfig
from rlhf_jax.envs.protocol import Discrete, Environment, Step, autoreset
from rlhf_jax.types import Array, Key, record

SEES_A_SIGN = ("observation", "both")


@record
class ProbeState:
    """The sign that is shown, and the steps of this episode."""

    sign: Array  # [] float32, -1 or 1; 0 where it means nothing
    time: Array  # [] int32


def make_probe(config: ProbeConfig) -> Environment:
    """The probe of some settings."""
    kind = config.probe

    def observe(state: ProbeState) -> Array:
        return (state.sign + state.time.astype(jnp.float32))[None]

    def reset(key: Key) -> tuple[Array, ProbeState]:
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        sign = sign if kind in SEES_A_SIGN else jnp.zeros(())
        state = ProbeState(sign=sign, time=jnp.zeros((), jnp.int32))
        return observe(state), state

    def advance(chance: Any, state: ProbeState, action: Array, begun: tuple[Array, Any]) -> Step:
        del chance
        chosen = 2.0 * action.astype(jnp.float32) - 1.0
        after = ProbeState(sign=state.sign, time=state.time + 1)
        terminated = after.time >= (2 if kind == "delay" else 1)
        reward = {
            "constant": jnp.ones(()),
            "observation": state.sign,
            "delay": terminated.astype(jnp.float32),
            "action": chosen,
            "both": chosen * state.sign,
        }[kind]
        final = observe(after)
        observation, following = autoreset(terminated, begun, (final, after))
        never = jnp.zeros((), bool)
        return observation, following, reward, terminated, never, {"final_observation": final}

    return Environment(
        name=f"probe-{kind}",
        reset=reset,
        advance=advance,
        observation_shape=(1,),
        actions=Discrete(2),
    )
