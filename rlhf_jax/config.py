"""Schemas of every setting, and the split into what is compiled in and what is traced.

A field made with `dynamic(...)` is a number used only in arithmetic: it enters the compiled
program as an argument, so runs that differ only in such fields share one program.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Optional, TypeVar

C = TypeVar("C")


class UserError(Exception):
    """Something the user can mend: shown as one line, without a traceback."""


class ConfigError(UserError, ValueError):
    """A setting that cannot work: names the key, its value and what would be accepted."""

    def __init__(self, key: str, value: object, accepted: str):
        super().__init__(f"{key}={value!r}: {accepted}")


def dynamic(default: float) -> Any:
    """A traced number: changing it never recompiles."""
    return field(default=default, metadata={"dynamic": True})


def choice(default: str, *others: str) -> Any:
    """A static choice among names."""
    return field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True)
class ModelConfig:
    """Decoder-only transformer; `configs/model/{tiny,small,base}.yaml` are the sizes."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    ff_width: int = 192
    context: int = 64  # longest text, prompt and completion together
    rope_theta: float = 10000.0
    tied: bool = True  # the output head is the token embedding
    dtype: str = choice("float32", "bfloat16")  # of the matrix products; parameters stay float32
    value_head: str = choice("separate", "shared", "shared_stop_gradient")
    value_init: str = choice("reward_model", "sft", "zero")


@dataclass(frozen=True)
class OptimConfig:
    """Adam with decoupled weight decay, global-norm clipping and a schedule over updates."""

    learning_rate: float = dynamic(1e-3)
    schedule: str = choice("constant", "linear", "cosine")
    warmup: float = 0.0  # share of all optimizer steps, in [0, 1)
    final_scale: float = dynamic(0.0)  # learning rate at the end, as a share of the peak
    beta1: float = dynamic(0.9)
    beta2: float = dynamic(0.999)
    epsilon: float = dynamic(1e-8)
    weight_decay: float = dynamic(0.0)
    max_grad_norm: float = dynamic(1.0)


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning, or pretraining from scratch: next-token cross-entropy."""

    steps: int = 1000
    batch_size: int = 64
    log_every: int = 20
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class RewardModelConfig:
    """Reward model fitted to preference pairs by the Bradley-Terry likelihood."""

    steps: int = 300
    batch_size: int = 64  # pairs
    log_every: int = 20
    margin: float = dynamic(0.0)  # scales the margin stored with each pair
    centering_coef: float = dynamic(0.0)  # pulls the mean of the two scores to 0
    normalize: bool = True  # then shift and scale to mean 0, variance 1 over reference samples
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn, in PPO and afterwards."""

    temperature: float = dynamic(1.0)
    top_k: int = 0  # 0: all tokens
    top_p: float = 1.0
    min_length: int = 1  # end-of-sequence is forbidden before this many tokens
    max_length: int = 24


@dataclass(frozen=True)
class PPOConfig:
    """PPO on sequences with a per-token KL penalty to the frozen reference in the reward."""

    name: str = "ppo"
    updates: int = 100
    batch_size: int = 64  # completions per update
    epochs: int = 4
    minibatches: int = 4
    clip_eps: float = dynamic(0.2)
    clip_value: bool = True
    value_clip_eps: float = dynamic(0.2)
    gamma: float = dynamic(1.0)
    gae_lambda: float = dynamic(0.95)
    vf_coef: float = dynamic(0.1)
    entropy_coef: float = dynamic(0.0)
    kl_coef: float = dynamic(0.05)  # the first value when the controller is adaptive
    kl_controller: str = choice("adaptive", "fixed")
    kl_target: float = dynamic(6.0)  # nats per sequence
    kl_horizon: float = dynamic(1000.0)  # episodes
    score_placement: str = choice("last_token", "last_slot")
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    missing_eos_penalty: float = dynamic(0.0)  # subtracted from the score of an unfinished text
    behavior_log_probs: str = choice("sampler", "forward")


@dataclass(frozen=True)
class TaskConfig:
    """What every text task has."""

    name: str = "reviews"
    # reward_model (learned from the task's pairs), gold (the task's own) or package.module:function
    reward: str = "reward_model"
    data_seed: int = 0
    num_pairs: int = 8192  # training pairs to draw; jsonl uses all its rows
    num_prompts: int = 4096


@dataclass(frozen=True)
class ReviewsConfig(TaskConfig):
    """The embedded task: short film reviews from a weighted grammar with a gold automaton."""

    num_texts: int = 20000
    annotator_temperature: float = 1.0
    flip_rate: float = 0.05
    min_prompt: int = 2  # tokens of an opening, BOS not counted
    max_prompt: int = 6


@dataclass(frozen=True)
class ImdbConfig(TaskConfig):
    """Real film reviews, and human ratings of snippets as preference pairs."""

    name: str = "imdb"
    vocab_size: int = 4096
    text_length: int = 128  # tokens in one training text
    pair_length: int = 64
    min_prompt: int = 4
    max_prompt: int = 12
    cache_dir: Optional[str] = None  # default: the user's cache directory


@dataclass(frozen=True)
class JsonlConfig(TaskConfig):
    """A user's own files: prompts and preferences in the Hugging Face schema."""

    name: str = "jsonl"
    prompts: str = ""
    preferences: str = ""
    text: Optional[str] = None  # one text a line, or {"text"} lines; default: prompt + chosen
    vocab_size: int = 4096
    max_prompt: int = 32
    text_length: int = 128
    heldout: float = 0.1  # share of prompts and pairs kept for evaluation
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
    """How a run is carried out; changes no number it computes."""

    cache: bool = True  # reuse SFT and reward-model stages of earlier runs
    cache_dir: Optional[str] = None
    checkpoint_every: int = 50  # PPO updates
    keep_checkpoints: int = 2
    max_skipped: int = 10  # non-finite updates in a row before the run stops
    stall_seconds: float = 600.0  # a compiled call silent for this long is reported
    device: str = choice("auto", "cpu", "gpu", "tpu")
    threads: Optional[int] = None  # of XLA's CPU pool; default: one a core
    compile_cache: bool = True  # keep compiled programs for later runs
    matmul_precision: str = choice("float32", "tensorfloat32", "bfloat16")  # of accelerators
    progress: bool = True


@dataclass(frozen=True)
class EvalConfig:
    """The before/after comparison."""

    num_prompts: int = 512
    num_samples: int = 5  # shown side by side


@dataclass(frozen=True)
class RLHFConfig:
    """`python -m experiments.rlhf`: every stage of the pipeline."""

    seed: int = dynamic(0)
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
