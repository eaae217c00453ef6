"""Settings of a run, and of the whole pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from rlhf_jax.config.algo import AlgoConfig, PolicyGradientConfig
from rlhf_jax.config.fields import NOT_NEGATIVE, POSITIVE, SEED, choice, dynamic, number
from rlhf_jax.config.model import (
    ModelConfig,
    OptimConfig,
    RewardModelConfig,
    SamplingConfig,
    SFTConfig,
)
from rlhf_jax.config.sweep import SweepConfig
from rlhf_jax.config.task import TaskConfig


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
    # A compiled call or a compilation that takes so long is reported; a sweep ends its worker.
    stall_seconds: float = number(600.0, POSITIVE)
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
    # Of the supervised and the reward model, so that runs of other seeds can share them.
    stage_seed: Optional[int] = number(None, SEED)  # default: as `seed`
    resume: Optional[str] = None
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    algo: AlgoConfig = field(default_factory=PolicyGradientConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    sink: SinkConfig = field(default_factory=SinkConfig)
    run: RunConfig = field(default_factory=RunConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    @property
    def seed_of_stages(self) -> int:
        """That of the supervised and the reward model, which runs of other seeds may share."""
        return self.seed if self.stage_seed is None else self.stage_seed
