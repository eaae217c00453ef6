"""The project's own PPO update at the shapes of a `Work`: settings, random models, prompts.

Nothing here is made for the benchmark but the data: the model, the update, the lanes and the way
they are compiled are those of `experiments.rlhf`. Settings are dataclasses, so that it also runs
where Hydra is not installed.
"""

from __future__ import annotations

from typing import Any, cast

import jax
import numpy as np

from benchmarks.ppo_update_work import Work
from rlhf_jax.config import (
    ModelConfig,
    OptimConfig,
    PolicyGradientConfig,
    RewardModelConfig,
    RLHFConfig,
    RunConfig,
    SamplingConfig,
    TaskConfig,
)
from rlhf_jax.models.transformer import make_language_model
from rlhf_jax.models.value_heads import init_head
from rlhf_jax.tasks.protocol import Task, TextCodec
from rlhf_jax.train.stages import Pipeline
from rlhf_jax.train.state import Frozen, stream
from rlhf_jax.types import PairBatch, Sequences

PROMPTS = 256  # that updates draw from
PAD, BOS, EOS = 0, 1, 2


def config_of(
    work: Work, run: RunConfig, dtype: str = "float32", attention: str = "own"
) -> RLHFConfig:
    """The settings of a run whose every update has these shapes; numbers are TRL 1.9.2's."""
    model = ModelConfig(
        layers=work.layers,
        width=work.width,
        heads=work.heads,
        kv_heads=work.kv_heads,
        ff_width=work.ff_width,
        context=work.tokens,
        dtype=dtype,
        attention=attention,
        value_head="separate",
    )
    algo = PolicyGradientConfig(
        updates=10_000,
        batch_size=work.episodes,
        epochs=work.epochs,
        minibatches=work.minibatches,
        kl_controller="fixed",
        whiten_variance="unbiased",
    )
    return RLHFConfig(
        task=TaskConfig(name="benchmark"),
        model=model,
        sampling=SamplingConfig(temperature=0.7, max_length=work.length, stop_at_eos=False),
        reward_model=RewardModelConfig(normalize="none"),
        algo=algo,
        optim=OptimConfig(learning_rate=3e-6, max_grad_norm=None),
        run=run,
    )


def task_of(work: Work) -> Task:
    """Random prompts, all of full length, and nothing else."""
    rng = np.random.default_rng(0)
    tokens: Any = rng.integers(EOS + 1, work.vocab, (PROMPTS, work.prompt)).astype(np.int32)
    tokens[:, 0] = BOS
    prompts = Sequences(tokens=tokens, mask=tokens >= 0)
    encode = lambda text: [int(word) for word in text.split()]
    decode = lambda ids: " ".join(map(str, ids))
    codec = TextCodec(encode, decode, work.vocab, PAD, BOS, EOS)
    none = Sequences(tokens=tokens[:0], mask=tokens[:0] > 0)
    numbers: Any = np.zeros(0, np.float32)
    lengths: Any = np.zeros(0, np.int32)
    pairs = PairBatch(chosen=none, rejected=none, margin=numbers, prompt_length=lengths)
    return Task(
        name="benchmark",
        codec=codec,
        train_text=none,
        heldout_text=none,
        train_pairs=pairs,
        heldout_pairs=pairs,
        train_prompts=prompts,
        eval_prompts=prompts,
    )


def pipeline_of(
    work: Work, run: RunConfig, dtype: str = "float32", attention: str = "own"
) -> Pipeline:
    """What the update is made from. It writes nowhere, so it has no session."""
    config, task = config_of(work, run, dtype, attention), task_of(work)
    model = make_language_model(config.model, work.vocab, task.codec.special)
    session = cast(Any, None)
    return Pipeline(config=config, task=task, session=session, model=model, cache=None)


def frozen_of(pipeline: Pipeline) -> Frozen:
    """A reference and a reward model with random weights of their own."""
    key, width = pipeline.key, pipeline.config.model.width
    init = jax.jit(pipeline.model.init)
    reward = {"trunk": init(stream(key, "reward")), "head": init_head(key, width)}
    return Frozen(reference=init(stream(key, "reference")), reward=reward)
