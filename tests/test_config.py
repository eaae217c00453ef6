"""Settings: what is traced, what is compiled in, and that nothing is lost between the two."""

import dataclasses

import jax
import pytest

from rlhf_jax import config as schemas
from rlhf_jax.config import (
    ConfigError,
    RLHFConfig,
    UserError,
    is_dynamic,
    merge_dynamic,
    split_dynamic,
)

DYNAMIC = {
    schemas.OptimConfig: {
        "learning_rate", "final_scale", "beta1", "beta2", "epsilon", "weight_decay",
        "max_grad_norm", "value_rate_factor",
    },
    schemas.RewardModelConfig: {"margin", "centering_coef"},
    schemas.SamplingConfig: {"temperature"},
    schemas.PolicyGradientConfig: {
        "clip_eps", "value_clip_eps", "gamma", "gae_lambda", "vf_coef", "entropy_coef", "kl_coef",
        "kl_target", "kl_horizon", "missing_eos_penalty", "clip_eps_high", "dual_clip",
        "penalty_coef", "penalty_target", "log_ratio_clip", "max_mean_ratio", "target_kl",
        "baseline_decay", "group_std_epsilon", "huber_delta", "score_clip", "overlong_penalty",
    },
    schemas.PreferenceConfig: {
        "beta", "label_smoothing", "margin", "desirable_weight", "undesirable_weight",
    },
    schemas.OnlineDPOConfig: {"beta", "missing_eos_penalty"},
    RLHFConfig: {"seed"},
    schemas.ClassicConfig: {"seed"},
    schemas.ClassicPPOConfig: {
        "clip_eps", "clip_eps_high", "dual_clip", "penalty_coef", "penalty_target", "entropy_coef",
        "target_kl", "gamma", "gae_lambda", "vf_coef", "huber_delta", "value_clip_eps",
    },
    schemas.GridworldConfig: {"slip", "step_cost", "gold", "dragon", "coin", "explore_starts"},
}  # fmt: skip
ALL = [c for c in vars(schemas).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]


@pytest.mark.parametrize("schema", ALL, ids=lambda c: c.__name__)
def test_exactly_these_fields_are_traced(schema):
    found = {f.name for f in dataclasses.fields(schema) if is_dynamic(f)}
    assert found == DYNAMIC.get(schema, set())


@pytest.mark.parametrize("schema", ALL, ids=lambda c: c.__name__)
def test_every_schema_is_frozen_and_has_working_defaults(schema):
    config = schema()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)
    for f in dataclasses.fields(schema):
        if "choices" in f.metadata:
            assert getattr(config, f.name) in f.metadata["choices"]


def changed():
    """A config that differs from the defaults on every level."""
    algo = schemas.PolicyGradientConfig(clip_eps=0.3, epochs=2)
    sft = schemas.SFTConfig(steps=7, optim=schemas.OptimConfig(learning_rate=0.5, warmup=0.1))
    return RLHFConfig(seed=4, task=schemas.JsonlConfig(prompts="a"), algo=algo, sft=sft)


@pytest.mark.parametrize("config", [RLHFConfig(), changed()])
def test_split_and_merge_are_inverse(config):
    static, hparams = split_dynamic(config)
    assert merge_dynamic(static, hparams) == config
    assert merge_dynamic(config, hparams) == config


def test_the_static_part_is_hashable_and_forgets_numbers_only():
    base, _ = split_dynamic(RLHFConfig())
    other_numbers = dataclasses.replace(
        RLHFConfig(), seed=9, algo=schemas.PolicyGradientConfig(clip_eps=0.9)
    )
    other_shape = dataclasses.replace(RLHFConfig(), algo=schemas.PolicyGradientConfig(epochs=9))
    assert hash(base) == hash(split_dynamic(other_numbers)[0])
    assert base == split_dynamic(other_numbers)[0] != split_dynamic(other_shape)[0]


def test_the_traced_part_is_a_tree_of_numbers():
    _, hparams = split_dynamic(changed())
    assert hparams["algo"]["clip_eps"] == 0.3 and hparams["seed"] == 4
    assert hparams["sft"] == {"optim": hparams["sft"]["optim"]}
    assert all(isinstance(x, int | float) for x in jax.tree.leaves(hparams))


def test_traced_numbers_can_be_merged_inside_a_compiled_step():
    static, hparams = split_dynamic(RLHFConfig())
    step = jax.jit(lambda h: merge_dynamic(static, h).algo.clip_eps * 2)
    assert float(step(hparams)) == pytest.approx(0.4)


def test_a_config_error_is_one_line_for_the_user():
    error = ConfigError("algo.minibatches", 3, "must divide 8")
    assert str(error) == "algo.minibatches=3: must divide 8"
    assert isinstance(error, UserError) and isinstance(error, ValueError)
