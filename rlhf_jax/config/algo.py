"""Settings of the algorithms: PPO and its kin, direct preference losses, best-of-n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, TypeVar

from rlhf_jax.config.fields import (
    BELOW_HALF,
    BELOW_ONE,
    INSIDE_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    choice,
    dynamic,
    number,
)

CRITIC = ("gae", "monte_carlo")  # advantage estimators that need a value function
GROUPED = ("grpo", "dr_grpo", "rloo", "best_of_group")  # that compare completions of one prompt
PER_TOKEN = (*CRITIC, "reinforce_pp")  # that give each token an advantage of its own


@dataclass(frozen=True)
class AlgoConfig:
    """What every algorithm has."""

    name: str = "ppo"  # shown beside the numbers
    updates: int = number(100, POSITIVE)
    batch_size: int = number(64, POSITIVE)  # completions (of fixed data: pairs) an update

    @property
    def completions(self) -> int:
        """Completions an update draws, or reads."""
        return self.batch_size


A = TypeVar("A", bound=AlgoConfig)


def of_kind(algo: AlgoConfig, kind: type[A]) -> A:
    """The settings of an algorithm, where the caller knows its kind.

    Raises:
      AssertionError: they are of another kind.
    """
    assert isinstance(algo, kind), f"{algo.name} is no {kind.__name__}"
    return algo


@dataclass(frozen=True)
class PolicyGradientConfig(AlgoConfig):
    """PPO, GRPO, RLOO, REINFORCE and their kin: sample, score, estimate advantages, learn."""

    group_size: int = number(1, POSITIVE)  # completions of each prompt
    dynamic_sampling: int = number(1, POSITIVE)  # samples so many batches, keeps one that informs
    epochs: int = number(4, POSITIVE)
    minibatches: int = number(4, POSITIVE)

    # The policy's loss.
    surrogate: str = choice(
        "clip",
        "asymmetric_clip",
        "dual_clip",
        "none",
        "log_clip",
        "kl_penalty",
        "adaptive_kl_penalty",
        "cispo",
        "gspo",
        "reinforce",
    )
    clip_eps: float = dynamic(0.2, INSIDE_ONE)
    clip_eps_high: Optional[float] = dynamic(None, POSITIVE)  # None: as clip_eps
    dual_clip: float = dynamic(3.0, POSITIVE)  # above 1; largest ratio where the advantage is < 0
    penalty_coef: float = dynamic(1.0, NOT_NEGATIVE)  # on KL(behaviour || policy); the first value
    penalty_target: float = dynamic(0.01, POSITIVE)  # nats a token an update, if it is adaptive
    log_ratio_clip: Optional[float] = dynamic(None, POSITIVE)  # log-ratios are cut to +- this
    entropy_coef: float = dynamic(0.0, NOT_NEGATIVE)
    aggregation: str = choice("token_mean", "sequence_mean", "sequence_sum", "constant_length")
    max_mean_ratio: Optional[float] = dynamic(None, POSITIVE)  # minibatches above it are left out
    target_kl: Optional[float] = dynamic(
        None, POSITIVE
    )  # nats a token; an update ends at 1.5 of it

    # Advantages.
    advantage: str = choice(
        "gae",
        "monte_carlo",
        "grpo",
        "dr_grpo",
        "rloo",
        "best_of_group",
        "batch_mean",
        "moving_mean",
        "reinforce_pp",
        "remax",
        "no_baseline",
    )
    gamma: float = dynamic(1.0, SHARE)
    gae_lambda: float = dynamic(0.95, SHARE)
    baseline_decay: float = dynamic(0.9, BELOW_ONE)  # of moving_mean, an update
    group_std_epsilon: float = dynamic(1e-8, NOT_NEGATIVE)
    whiten_rewards: str = choice("none", "keep_mean", "standardize", "scale")
    whiten_advantages: str = choice("standardize", "center", "none")
    whiten_variance: str = choice("biased", "unbiased")  # of groups too
    whiten_over: str = choice("batch", "minibatch")  # then rewards are whitened there, too

    # KL to the reference.
    kl_placement: str = choice("reward", "loss", "none")
    kl_estimator: str = choice("k1", "k2", "k3", "full")
    kl_importance: bool = False  # in the loss: times the probability ratio
    kl_coef: float = dynamic(0.05, NOT_NEGATIVE)  # the first value when the controller is adaptive
    kl_controller: str = choice("adaptive", "fixed")
    kl_unit: str = choice("sequence", "token")  # of kl_target
    kl_target: float = dynamic(6.0, POSITIVE)  # nats per sequence, or per token
    kl_horizon: float = dynamic(1000.0, POSITIVE)  # episodes

    # The value function; its network is chosen by model.value_head and model.value_init.
    vf_coef: float = dynamic(0.1, NOT_NEGATIVE)
    value_loss: str = choice("squared", "huber")
    huber_delta: float = dynamic(1.0, POSITIVE)
    clip_value: bool = True
    value_clip_eps: float = dynamic(0.2, POSITIVE)
    value_warmup: int = number(0, NOT_NEGATIVE)  # updates in which only the value function learns

    # From a text to its score.
    score_placement: str = choice("last_token", "after_eos", "last_slot")
    score_clip: Optional[float] = dynamic(None, POSITIVE)  # scores are cut to +- this
    missing_eos: str = choice("none", "subtract", "replace")
    missing_eos_penalty: float = dynamic(1.0, NOT_NEGATIVE)  # replace: the score becomes minus this
    overlong_buffer: int = number(0, NOT_NEGATIVE)  # last tokens in which length is penalised
    overlong_penalty: float = dynamic(1.0, NOT_NEGATIVE)  # at the full length
    mask_truncated: bool = False  # nothing is learnt from completions without an end

    behavior_log_probs: str = choice("sampler", "forward")

    @property
    def critic(self) -> bool:
        """Whether there is a value function."""
        return self.advantage in CRITIC

    @property
    def completions(self) -> int:
        """Completions sampled an update."""
        greedy = 2 if self.advantage == "remax" else 1
        return self.batch_size * self.dynamic_sampling * greedy


@dataclass(frozen=True)
class PreferenceConfig(AlgoConfig):
    """Direct preference losses on the task's pairs; no sampling, no reward model in training."""

    name: str = "dpo"
    loss: str = choice("dpo", "ipo", "hinge", "robust", "kto", "orpo", "simpo")
    beta: float = dynamic(0.1, POSITIVE)
    label_smoothing: float = dynamic(0.0, BELOW_HALF)  # conservative dpo; robust: flips; simpo too
    margin: float = dynamic(0.5, NOT_NEGATIVE)  # simpo's gamma, in points of the reward
    desirable_weight: float = dynamic(1.0, NOT_NEGATIVE)  # kto
    undesirable_weight: float = dynamic(1.0, NOT_NEGATIVE)  # kto
    log_every: int = number(1, POSITIVE)

    @property
    def completions(self) -> int:
        """Two a pair."""
        return 2 * self.batch_size


@dataclass(frozen=True)
class OnlineDPOConfig(AlgoConfig):
    """Two completions of each prompt, ranked by the reward, and a preference loss on the two."""

    name: str = "online_dpo"
    loss: str = choice("dpo", "ipo", "hinge")
    beta: float = dynamic(0.1, POSITIVE)
    # better: the higher score is preferred, by however little, which leads past the optimum of
    # E[r] - beta KL; bradley_terry: with chance sigmoid(difference), which leads to it.
    ranking: str = choice("better", "bradley_terry")
    missing_eos: str = choice("none", "subtract", "replace")
    missing_eos_penalty: float = dynamic(1.0, NOT_NEGATIVE)
    behavior_log_probs: str = choice("sampler", "forward")


@dataclass(frozen=True)
class BestOfNConfig(AlgoConfig):
    """No training: of n completions of the reference the one with the best score.

    `updates` and `batch_size` are not read.
    """

    name: str = "best_of_n"
    n: int = number(16, POSITIVE)


@dataclass(frozen=True)
class RejectionConfig(AlgoConfig):
    """Rejection fine-tuning: likelihood of the best of n samples of the reference."""

    name: str = "rejection"
    n: int = number(4, POSITIVE)
    num_prompts: int = number(2560, POSITIVE)  # of which n completions each are drawn
