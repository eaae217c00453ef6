"""Schemas of every setting; numbers made with `dynamic(...)` are traced, the rest compiled in."""

from rlhf_jax.config.algo import (
    AlgoConfig,
    BestOfNConfig,
    OnlineDPOConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RejectionConfig,
)
from rlhf_jax.config.fields import (
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SEED,
    ConfigError,
    Range,
    UserError,
    choice,
    dynamic,
    is_dynamic,
    merge_dynamic,
    number,
    split_dynamic,
)
from rlhf_jax.config.model import (
    ModelConfig,
    OptimConfig,
    RewardModelConfig,
    SamplingConfig,
    SFTConfig,
)
from rlhf_jax.config.run import EvalConfig, RLHFConfig, RunConfig, SinkConfig
from rlhf_jax.config.task import ImdbConfig, JsonlConfig, ReviewsConfig, TaskConfig

__all__ = [
    "NOT_NEGATIVE",
    "POSITIVE",
    "POSITIVE_SHARE",
    "SEED",
    "AlgoConfig",
    "BestOfNConfig",
    "ConfigError",
    "EvalConfig",
    "ImdbConfig",
    "JsonlConfig",
    "ModelConfig",
    "OnlineDPOConfig",
    "OptimConfig",
    "PolicyGradientConfig",
    "PreferenceConfig",
    "RLHFConfig",
    "Range",
    "RejectionConfig",
    "ReviewsConfig",
    "RewardModelConfig",
    "RunConfig",
    "SFTConfig",
    "SamplingConfig",
    "SinkConfig",
    "TaskConfig",
    "UserError",
    "choice",
    "dynamic",
    "is_dynamic",
    "merge_dynamic",
    "number",
    "split_dynamic",
]
