"""Settings of PPO on environments: `python -m experiments.ppo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from rlhf_jax.config.env import ANY, EnvConfig
from rlhf_jax.config.fields import (
    INSIDE_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SEED,
    SHARE,
    choice,
    dynamic,
    number,
)
from rlhf_jax.config.model import OptimConfig
from rlhf_jax.config.run import RunConfig, SinkConfig


@dataclass(frozen=True)
class NetworkConfig:
    """The policy and the value function: perceptrons, with a trunk each or one between them."""

    layers: int = number(2, NOT_NEGATIVE)  # hidden ones
    width: int = number(64, POSITIVE)
    activation: str = choice("tanh", "relu")
    init: str = choice("orthogonal", "lecun")  # lecun: normal, variance 1 / inputs, gain 1
    hidden_gain: float = number(2**0.5, POSITIVE)
    policy_gain: float = number(0.01, POSITIVE)  # of the layer that gives the actions
    value_gain: float = number(1.0, POSITIVE)
    # separate_matched: two narrower trunks, with the parameters of the shared one between them.
    value_sharing: str = choice("separate", "shared", "shared_stop_gradient", "separate_matched")
    log_std: float = number(0.0, ANY)  # of Gaussian actions, before training


@dataclass(frozen=True)
class ClassicPPOConfig:
    """PPO of a policy network; each detail of the well-known implementations is a switch."""

    total_steps: int = number(100_000, POSITIVE)  # of the environment, all copies together
    num_envs: int = number(16, POSITIVE)
    num_steps: int = number(64, POSITIVE)  # of each copy, an update
    epochs: int = number(4, POSITIVE)
    minibatches: int = number(4, POSITIVE)

    # The policy's loss.
    surrogate: str = choice(
        "clip", "none", "log_clip", "dual_clip", "kl_penalty", "adaptive_kl_penalty", "reinforce"
    )
    clip_eps: float = dynamic(0.2, INSIDE_ONE)
    clip_eps_high: Optional[float] = dynamic(None, POSITIVE)  # None: as clip_eps
    dual_clip: float = dynamic(3.0, POSITIVE)
    penalty_coef: float = dynamic(1.0, NOT_NEGATIVE)  # on KL(behaviour || policy); the first value
    penalty_target: float = dynamic(0.01, POSITIVE)  # nats a step an update, if it is adaptive
    entropy_coef: float = dynamic(0.01, NOT_NEGATIVE)
    # Share of the updates after which the entropy bonus has gone to 0, linearly; None: it stays.
    anneal_entropy: Optional[float] = number(None, POSITIVE_SHARE)
    target_kl: Optional[float] = dynamic(None, POSITIVE)  # an update ends at 1.5 of it

    # Advantages.
    gamma: float = dynamic(0.99, SHARE)
    gae_lambda: float = dynamic(0.95, SHARE)
    whiten_advantages: str = choice("minibatch", "batch", "none")
    whiten_variance: str = choice("biased", "unbiased")
    recompute_advantages: bool = False  # in every epoch, with the values as they are by then
    # Steps after which an episode was cut short are worth what the value function says of the rest;
    # without it they count as an end.
    bootstrap_truncated: bool = True

    # The value function.
    vf_coef: float = dynamic(0.5, NOT_NEGATIVE)
    value_loss: str = choice("squared", "huber")
    huber_delta: float = dynamic(1.0, POSITIVE)
    clip_value: bool = False
    value_clip_eps: float = dynamic(0.2, POSITIVE)

    # What the networks see.
    normalize_observations: bool = False  # by running mean and variance
    scale_rewards: bool = False  # by the running deviation of the discounted return
    # Bounds of what the networks see and learn from, after the two above; None: not cut.
    observation_clip: Optional[float] = number(None, POSITIVE)
    reward_clip: Optional[float] = number(None, POSITIVE)

    @property
    def batch_size(self) -> int:
        """Environment steps of an update."""
        return self.num_envs * self.num_steps

    @property
    def updates(self) -> int:
        """Whole updates that fit the steps."""
        return self.total_steps // self.batch_size


@dataclass(frozen=True)
class ClassicConfig:
    """`python -m experiments.ppo`: a policy network on an environment."""

    seed: int = dynamic(0, SEED)
    seeds: int = number(1, POSITIVE)  # seed, seed + 1, ...: lanes of a program
    # Processes that share the seeds on a CPU; default: one a core, or one if run.threads is set.
    workers: Optional[int] = number(None, POSITIVE)
    env: EnvConfig = field(default_factory=EnvConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    ppo: ClassicPPOConfig = field(default_factory=ClassicPPOConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    frames: int = number(12, POSITIVE)  # pictures through training, beside that of its start
    sink: SinkConfig = field(default_factory=SinkConfig)
    run: RunConfig = field(default_factory=RunConfig)
