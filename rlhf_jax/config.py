"""Schemas of every setting, and the split into what is compiled in and what is traced.

A field made with `dynamic(...)` is a number used only in arithmetic: it enters the compiled
program as an argument, so runs that differ only in such fields share one program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, TypeVar

C = TypeVar("C")


class UserError(Exception):
    """Something the user can mend: shown as one line, without a traceback."""


class ConfigError(UserError, ValueError):
    """A setting that cannot work: names the key, its value and what would be accepted."""

    def __init__(self, key: str, value: object, accepted: str):
        super().__init__(f"{key}={value!r}: {accepted}")


class Range(NamedTuple):
    """The finite numbers a setting may take, in words and as a test."""

    accepted: str
    holds: Callable[[float], bool]


POSITIVE = Range("must be above 0", lambda x: x > 0)
NOT_NEGATIVE = Range("must be 0 or above", lambda x: x >= 0)
SHARE = Range("must be between 0 and 1", lambda x: 0 <= x <= 1)
POSITIVE_SHARE = Range("must be above 0 and at most 1", lambda x: 0 < x <= 1)
BELOW_ONE = Range("must be in [0, 1)", lambda x: 0 <= x < 1)
BELOW_HALF = Range("must be in [0, 0.5)", lambda x: 0 <= x < 0.5)
INSIDE_ONE = Range("must be above 0 and below 1", lambda x: 0 < x < 1)
SEED = Range("must be 0 or above and below 2**32", lambda x: 0 <= x < 2**32)


def dynamic(default: float, allowed: Range) -> Any:
    """A traced number: changing it never recompiles."""
    return field(default=default, metadata={"dynamic": True, "range": allowed})


def number(default: float | None, allowed: Range) -> Any:
    """A number that is compiled in, or none where the annotation says so."""
    return field(default=default, metadata={"range": allowed})


def choice(default: str, *others: str) -> Any:
    """A static choice among names."""
    return field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True)
class ModelConfig:
    """Decoder-only transformer; `configs/model/{tiny,small,base}.yaml` are the sizes."""

    layers: int = number(2, POSITIVE)
    width: int = number(64, POSITIVE)
    heads: int = number(4, POSITIVE)
    kv_heads: int = number(2, POSITIVE)
    ff_width: int = number(192, POSITIVE)
    context: int = number(64, POSITIVE)  # longest text, prompt and completion together
    rope_theta: float = number(10000.0, POSITIVE)
    tied: bool = True  # the output head is the token embedding
    dtype: str = choice("float32", "bfloat16")  # of the matrix products; parameters stay float32
    value_head: str = choice("separate", "shared", "shared_stop_gradient")
    value_init: str = choice("reward_model", "sft", "zero")


@dataclass(frozen=True)
class OptimConfig:
    """Adam with decoupled weight decay, global-norm clipping and a schedule over updates."""

    learning_rate: float = dynamic(1e-3, POSITIVE)
    schedule: str = choice("constant", "linear", "cosine")
    warmup: float = number(0.0, BELOW_ONE)  # share of all optimizer steps
    final_scale: float = dynamic(0.0, NOT_NEGATIVE)  # at the end, as a share of the peak
    beta1: float = dynamic(0.9, BELOW_ONE)
    beta2: float = dynamic(0.999, BELOW_ONE)
    epsilon: float = dynamic(1e-8, POSITIVE)
    weight_decay: float = dynamic(0.0, NOT_NEGATIVE)
    max_grad_norm: float = dynamic(1.0, POSITIVE)


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning, or pretraining from scratch: next-token cross-entropy."""

    steps: int = number(1000, POSITIVE)
    batch_size: int = number(64, POSITIVE)
    log_every: int = number(20, POSITIVE)
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class RewardModelConfig:
    """Reward model fitted to preference pairs by the Bradley-Terry likelihood."""

    steps: int = number(300, POSITIVE)
    batch_size: int = number(64, POSITIVE)  # pairs
    log_every: int = number(20, POSITIVE)
    margin: float = dynamic(0.0, NOT_NEGATIVE)  # scales the margin stored with each pair
    centering_coef: float = dynamic(0.0, NOT_NEGATIVE)  # pulls the mean of the two scores to 0
    normalize: bool = True  # then shift and scale to mean 0, variance 1 over reference samples
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn, in PPO and afterwards."""

    temperature: float = dynamic(1.0, POSITIVE)
    top_k: int = number(0, NOT_NEGATIVE)  # 0: all tokens
    top_p: float = number(1.0, POSITIVE_SHARE)
    min_length: int = number(1, NOT_NEGATIVE)  # no end of sequence before this many
    max_length: int = number(24, POSITIVE)


@dataclass(frozen=True)
class PPOConfig:
    """PPO on sequences with a per-token KL penalty to the frozen reference in the reward."""

    name: str = "ppo"
    updates: int = number(100, POSITIVE)
    batch_size: int = number(64, POSITIVE)  # completions per update
    epochs: int = number(4, POSITIVE)
    minibatches: int = number(4, POSITIVE)
    clip_eps: float = dynamic(0.2, INSIDE_ONE)
    clip_value: bool = True
    value_clip_eps: float = dynamic(0.2, POSITIVE)
    gamma: float = dynamic(1.0, SHARE)
    gae_lambda: float = dynamic(0.95, SHARE)
    vf_coef: float = dynamic(0.1, NOT_NEGATIVE)
    entropy_coef: float = dynamic(0.0, NOT_NEGATIVE)
    kl_coef: float = dynamic(0.05, NOT_NEGATIVE)  # the first value when the controller is adaptive
    kl_controller: str = choice("adaptive", "fixed")
    kl_target: float = dynamic(6.0, POSITIVE)  # nats per sequence
    kl_horizon: float = dynamic(1000.0, POSITIVE)  # episodes
    score_placement: str = choice("last_token", "last_slot")
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    missing_eos_penalty: float = dynamic(0.0, NOT_NEGATIVE)  # off the score of an unfinished text
    behavior_log_probs: str = choice("sampler", "forward")


@dataclass(frozen=True)
class TaskConfig:
    """What every text task has."""

    name: str = "reviews"
    # reward_model (learned from the task's pairs), gold (the task's own) or package.module:function
    reward: str = "reward_model"
    data_seed: int = number(0, SEED)
    num_pairs: int = number(8192, POSITIVE)  # training pairs to draw; jsonl uses all its rows
    num_prompts: int = number(4096, POSITIVE)


@dataclass(frozen=True)
class ReviewsConfig(TaskConfig):
    """The embedded task: short film reviews from a weighted grammar with a gold automaton."""

    num_texts: int = number(20000, POSITIVE)
    annotator_temperature: float = number(1.0, POSITIVE)
    flip_rate: float = number(0.05, BELOW_HALF)
    min_prompt: int = number(2, POSITIVE)  # tokens of an opening, BOS not counted
    max_prompt: int = number(6, POSITIVE)


@dataclass(frozen=True)
class ImdbConfig(TaskConfig):
    """Real film reviews, and human ratings of snippets as preference pairs."""

    name: str = "imdb"
    vocab_size: int = number(4096, POSITIVE)
    text_length: int = number(128, POSITIVE)  # tokens in one training text
    pair_length: int = number(64, POSITIVE)
    min_prompt: int = number(4, POSITIVE)
    max_prompt: int = number(12, POSITIVE)
    cache_dir: Optional[str] = None  # default: the user's cache directory


@dataclass(frozen=True)
class JsonlConfig(TaskConfig):
    """A user's own files: prompts and preferences in the Hugging Face schema."""

    name: str = "jsonl"
    prompts: str = ""
    preferences: str = ""
    text: Optional[str] = None  # one text a line, or {"text"} lines; default: prompt + chosen
    vocab_size: int = number(4096, POSITIVE)
    max_prompt: int = number(32, POSITIVE)
    text_length: int = number(128, POSITIVE)
    heldout: float = number(0.1, INSIDE_ONE)  # share of prompts and pairs kept for evaluation
    skip_bad_rows: bool = False
    chat_template: Optional[str] = None  # a Jinja template for message lists


@dataclass(frozen=True)
class SinkConfig:
    """Where metrics go besides metrics.jsonl, which is always written."""

    kind: str = choice("jsonl", "wandb", "tensorboard")
    project: str = "rlhf_jax"
    mode: str = choice("online", "offline", "disabled")  # wandb only
    group: Optional[str] = None


@dataclass(frozen=True)
class RunConfig:
    """How a run is carried out; all but `matmul_precision` change no number it computes."""

    cache: bool = True  # reuse SFT and reward-model stages of earlier runs
    cache_dir: Optional[str] = None
    checkpoint_every: int = number(50, POSITIVE)  # PPO updates
    keep_checkpoints: int = number(2, POSITIVE)
    max_skipped: int = number(10, POSITIVE)  # non-finite updates in a row before the run stops
    stall_seconds: float = number(600.0, POSITIVE)  # a compiled call silent for so long is reported
    device: str = choice("auto", "cpu", "gpu", "tpu")
    threads: Optional[int] = number(None, POSITIVE)  # of XLA's CPU pool; default: one a core
    compile_cache: bool = True  # keep compiled programs for later runs
    matmul_precision: str = choice("float32", "tensorfloat32", "bfloat16")  # of accelerators
    progress: bool = True


@dataclass(frozen=True)
class EvalConfig:
    """The before/after comparison."""

    num_prompts: int = number(512, POSITIVE)
    num_samples: int = number(5, NOT_NEGATIVE)  # shown side by side


@dataclass(frozen=True)
class RLHFConfig:
    """`python -m experiments.rlhf`: every stage of the pipeline."""

    seed: int = dynamic(0, SEED)
    resume: Optional[str] = None
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    algo: PPOConfig = field(default_factory=PPOConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    sink: SinkConfig = field(default_factory=SinkConfig)
    run: RunConfig = field(default_factory=RunConfig)


def is_dynamic(f: dataclasses.Field) -> bool:
    """Whether the field is traced."""
    return bool(f.metadata.get("dynamic"))


def split_dynamic(config: C) -> tuple[C, dict[str, Any]]:
    """Splits a config into a hashable static part and the nested dict of its traced numbers.

    >>> static, hparams = split_dynamic(SamplingConfig(temperature=0.7))
    >>> static.temperature is None, hparams
    (True, {'temperature': 0.7})
    >>> merge_dynamic(static, hparams) == SamplingConfig(temperature=0.7)
    True
    """
    hparams: dict[str, Any] = {}
    blanks: dict[str, Any] = {}
    for f in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value = getattr(config, f.name)
        if is_dynamic(f):
            hparams[f.name], blanks[f.name] = value, None
        elif dataclasses.is_dataclass(value):
            blanks[f.name], inner = split_dynamic(value)
            if inner:
                hparams[f.name] = inner
    return dataclasses.replace(config, **blanks), hparams  # pyright: ignore[reportArgumentType]


def merge_dynamic(static: C, hparams: dict[str, Any]) -> C:
    """Puts traced numbers back where `split_dynamic` took them; used inside compiled steps."""
    values = {
        k: merge_dynamic(getattr(static, k), v) if isinstance(v, dict) else v
        for k, v in hparams.items()
    }
    return dataclasses.replace(static, **values)  # pyright: ignore[reportArgumentType]
