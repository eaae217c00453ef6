"""What PPO and its kin make of a score: KL, shaping, and the values fitted to the result."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_jax.config import PolicyGradientConfig, RLHFConfig

Problem = tuple[str, object, str]  # key, value, what would be accepted


def of_kl(algo: PolicyGradientConfig) -> Iterator[Problem]:
    """A KL term that is there."""
    if algo.kl_importance and algo.kl_placement != "loss":
        accepted = "weighs a KL in the loss; use false, or algo.kl_placement=loss"
        yield "algo.kl_importance", True, accepted
    if algo.kl_importance and algo.surrogate == "reinforce":
        accepted = "reinforce has no probability ratio; use false, or another algo.surrogate"
        yield "algo.kl_importance", True, accepted
    if algo.kl_placement == "none" and algo.kl_controller == "adaptive":
        accepted = "there is no KL term to steer; use fixed, or algo.kl_placement=reward or loss"
        yield "algo.kl_controller", algo.kl_controller, accepted


def of_kl_controller(config: RLHFConfig, algo: PolicyGradientConfig) -> Iterator[Problem]:
    """A coefficient that neither sticks nor flips its sign, and a target it can reach."""
    if algo.kl_controller != "adaptive":
        return
    if algo.kl_coef == 0:
        accepted = "an adaptive coefficient of 0 stays 0; use algo.kl_controller=fixed"
        yield "algo.kl_coef", algo.kl_coef, accepted
    if algo.kl_horizon <= 0.2 * algo.batch_size:  # see ops.kl.ziegler_controller
        accepted = (
            f"must be above 0.2 * algo.batch_size = {0.2 * algo.batch_size:g}, "
            "or the adaptive coefficient can turn negative"
        )
        yield "algo.kl_horizon", algo.kl_horizon, accepted
    if algo.kl_unit == "token" and algo.kl_target > 1:
        longest = config.sampling.max_length
        accepted = (
            f"must be at most 1 with algo.kl_unit=token: it would be {longest * algo.kl_target:g} "
            f"nats a text of {longest} tokens (verl: 0.1)"
        )
        yield "algo.kl_target", algo.kl_target, accepted


def of_scores(config: RLHFConfig, algo: PolicyGradientConfig) -> Iterator[Problem]:
    """Score shaping within the length of a completion."""
    sampling = config.sampling
    if algo.overlong_buffer >= sampling.max_length:
        accepted = f"must be below sampling.max_length={sampling.max_length}"
        yield "algo.overlong_buffer", algo.overlong_buffer, accepted
    if algo.mask_truncated and not sampling.stop_at_eos:
        accepted = "texts of fixed length are never cut short; use false, or sampling.stop_at_eos"
        yield "algo.mask_truncated", True, accepted
    if algo.mask_truncated and sampling.min_length >= sampling.max_length:
        accepted = (
            f"sampling.min_length={sampling.min_length} forbids every end, so that nothing "
            "would be learnt; use false, or a smaller sampling.min_length"
        )
        yield "algo.mask_truncated", True, accepted


def of_values(config: RLHFConfig, algo: PolicyGradientConfig) -> Iterator[Problem]:
    """A value function that exists, learns and fits the network."""
    model, warmup = config.model, algo.value_warmup
    if warmup and not algo.critic:
        accepted = f"{algo.advantage} has no value function to warm up; use 0"
        yield "algo.value_warmup", warmup, accepted
    switches = {"value_loss": "squared", "clip_value": True}
    for name, default in switches.items():
        if not algo.critic and getattr(algo, name) != default:
            accepted = f"{algo.advantage} has no value function; use {default}"
            yield f"algo.{name}", getattr(algo, name), accepted
    if warmup and algo.critic and algo.vf_coef == 0:
        yield "algo.value_warmup", warmup, "algo.vf_coef=0 teaches the values nothing; use 0"
    if warmup >= algo.updates:
        accepted = f"must be below algo.updates={algo.updates}, or the policy never learns"
        yield "algo.value_warmup", warmup, accepted
    if model.value_head == "top_k_layers" and model.value_layers > model.layers:
        accepted = f"must be at most model.layers={model.layers}"
        yield "model.value_layers", model.value_layers, accepted
