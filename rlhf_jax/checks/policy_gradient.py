"""Switches of PPO and its kin that cannot work with one another, each with the reason.

A setting that says "do this" is refused where it cannot act. A number that says how much is not:
it may stand ready while the switch it belongs to is off, as in a sweep over that switch.
"""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_jax.checks.rewards import Problem, of_kl, of_kl_controller, of_scores, of_values
from rlhf_jax.config import PolicyGradientConfig, RLHFConfig
from rlhf_jax.config.algo import GROUPED, PER_TOKEN

TWO_SIDED = ("asymmetric_clip", "dual_clip", "cispo", "gspo")  # that may have an upper clip


def of_policy_gradient(config: RLHFConfig, algo: PolicyGradientConfig) -> Iterator[Problem]:
    """Everything wrong with the settings of the family, most basic first."""
    yield from of_batches(algo)
    yield from of_surrogate(algo)
    yield from of_ratio(algo)
    yield from of_advantage(algo)
    yield from of_kl(algo)
    yield from of_kl_controller(config, algo)
    yield from of_scores(config, algo)
    yield from of_values(config, algo)


def of_batches(algo: PolicyGradientConfig) -> Iterator[Problem]:
    """Minibatches and groups divide the batch."""
    for name in ("minibatches", "group_size"):
        value = getattr(algo, name)
        if algo.batch_size % value:
            divisors = [n for n in range(1, algo.batch_size + 1) if algo.batch_size % n == 0]
            accepted = f"must divide algo.batch_size={algo.batch_size} (one of {divisors})"
            yield f"algo.{name}", value, accepted


def of_surrogate(algo: PolicyGradientConfig) -> Iterator[Problem]:
    """Numbers that the surrogate asked for needs, or has no use for."""
    high, kind = algo.clip_eps_high, algo.surrogate
    if kind == "asymmetric_clip" and high is None:
        yield "algo.clip_eps_high", high, "asymmetric_clip needs it; DAPO has 0.28"
    if kind not in TWO_SIDED and high is not None:
        accepted = f"{kind} has none; use null, or algo.surrogate={' or '.join(TWO_SIDED)}"
        yield "algo.clip_eps_high", high, accepted
    if kind == "dual_clip" and algo.dual_clip <= 1.0 + (algo.clip_eps if high is None else high):
        accepted = "must be above 1 + algo.clip_eps, or 1 + algo.clip_eps_high if given (verl: 3)"
        yield "algo.dual_clip", algo.dual_clip, accepted
    if kind == "adaptive_kl_penalty" and algo.penalty_coef == 0:
        accepted = "an adaptive coefficient of 0 stays 0; use algo.surrogate=kl_penalty or none"
        yield "algo.penalty_coef", algo.penalty_coef, accepted
    if kind == "gspo" and algo.advantage in PER_TOKEN:
        accepted = "gspo weighs whole sequences; use an advantage a sequence, as grpo or rloo"
        yield "algo.advantage", algo.advantage, accepted


def of_ratio(algo: PolicyGradientConfig) -> Iterator[Problem]:
    """What is done about a policy that has left the one that sampled."""
    limit, steps = algo.max_mean_ratio, algo.epochs * algo.minibatches
    if limit is not None and limit <= 1:
        yield "algo.max_mean_ratio", limit, "must be above 1, where every update starts, or null"
    if algo.surrogate != "reinforce":
        return
    if steps > 1 and algo.target_kl is None and algo.advantage != "best_of_group":
        name = "epochs" if algo.epochs > 1 else "minibatches"
        accepted = (
            "reinforce has no probability ratio to correct for a second step on the same "
            "samples; use algo.epochs=1 and algo.minibatches=1, or another algo.surrogate"
        )
        yield f"algo.{name}", getattr(algo, name), accepted
    if algo.log_ratio_clip is not None:
        accepted = "reinforce has no probability ratio; use null, or another algo.surrogate"
        yield "algo.log_ratio_clip", algo.log_ratio_clip, accepted


def of_advantage(algo: PolicyGradientConfig) -> Iterator[Problem]:
    """Estimators get the groups, rewards and surrogates they are made for."""
    kind = algo.advantage
    if kind in GROUPED and algo.group_size < 2:
        accepted = f"must be at least 2: {kind} compares completions of one prompt"
        yield "algo.group_size", algo.group_size, accepted
    if kind == "batch_mean" and algo.batch_size < 2:
        yield "algo.batch_size", algo.batch_size, "must be at least 2: the baseline is their mean"
    if kind == "remax" and algo.group_size > 1:
        yield "algo.group_size", algo.group_size, "must be 1: remax has one baseline a prompt"
    if kind == "best_of_group" and algo.surrogate != "reinforce":
        accepted = "best_of_group (RAFT) imitates the best completion; use reinforce"
        yield "algo.surrogate", algo.surrogate, accepted
    if kind == "best_of_group" and algo.whiten_advantages != "none":
        accepted = "best_of_group imitates the best and ignores the rest; use none"
        yield "algo.whiten_advantages", algo.whiten_advantages, accepted
    if algo.dynamic_sampling > 1 and kind not in GROUPED:
        accepted = f"leaves out groups with equal scores, and {kind} has no groups; use 1"
        yield "algo.dynamic_sampling", algo.dynamic_sampling, accepted
    if kind not in PER_TOKEN:
        yield from of_whole_texts(algo)


def of_whole_texts(algo: PolicyGradientConfig) -> Iterator[Problem]:
    """Estimators that see the sum of a text's rewards know nothing of its tokens."""
    kind = algo.advantage
    if algo.whiten_rewards != "none":
        accepted = f"{kind} has one reward a text, nothing to whiten over; use none"
        yield "algo.whiten_rewards", algo.whiten_rewards, accepted
    if algo.gamma != 1:
        yield "algo.gamma", algo.gamma, f"{kind} adds up the rewards of a text; use 1"
    if algo.score_placement != "last_token":
        accepted = f"{kind} adds up the rewards of a text, wherever they are; use last_token"
        yield "algo.score_placement", algo.score_placement, accepted
