"""The policy an audit looks at: a few updates from the reference, or that of a finished run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from rlhf_jax.config import PolicyGradientConfig, RLHFConfig
from rlhf_jax.io.checkpoint import CheckpointStore
from rlhf_jax.io.params import load_params
from rlhf_jax.io.run_dir import RunDir
from rlhf_jax.io.sinks import read_rows
from rlhf_jax.train import policy_gradient as family
from rlhf_jax.train.pipeline import trained_models
from rlhf_jax.train.stages import Pipeline
from rlhf_jax.train.state import Frozen, TrainState, policy_gradient
from rlhf_jax.train.tuning import run_sampled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Where an audit looks."""

    updates: int  # from the reference; not with a finished run
    steps: int  # of the optimizer, between the rollout and the comparison
    batch_size: int | None = None  # completions; None: see `audited`
    run: Path | None = None  # a finished run,
    trained: RLHFConfig | None = None  # its settings,
    given: tuple[str, ...] = ()  # the coefficients not to be taken from where it ended,
    seed: int | None = None  # and that of another rollout than its next


def policy_of(pipeline: Pipeline, plan: Plan) -> tuple[Frozen, TrainState]:
    """The policy asked for, and the models it is compared with."""
    if plan.run is None or plan.trained is None:
        return early_policy(pipeline, plan.updates)
    frozen, state = finished_policy(pipeline, plan.run, plan.trained)
    algo = policy_gradient(pipeline.config)
    given = {name: jnp.asarray(getattr(algo, name), jnp.float32) for name in plan.given}
    key = state.key if plan.seed is None else jax.random.key(plan.seed)
    return frozen, dataclasses.replace(state, key=key, extra=state.extra | given)


def early_policy(pipeline: Pipeline, updates: int) -> tuple[Frozen, TrainState]:
    """The pipeline's stages, from the cache if it has them, and a run of so many updates."""
    config, frozen = pipeline.config, trained_models(pipeline)
    if updates == 0:
        return frozen, family.init(config, frozen, pipeline.key)
    short = dataclasses.replace(config, algo=dataclasses.replace(config.algo, updates=updates))
    return frozen, run_sampled(dataclasses.replace(pipeline, config=short), frozen)


def finished_policy(
    pipeline: Pipeline, run: Path, trained: RLHFConfig
) -> tuple[Frozen, TrainState]:
    """The frozen models of a finished run, and the state it ended with.

    The pipeline may have another algorithm than `trained`, the settings of the run. Where the
    run's optimizer fits neither it nor what is on disk, the optimizer's moments start at 0; a
    value function that the run does not have starts as it would in training.
    """
    reference, reward = (load_params(RunDir(run).params(n))[0] for n in ("sft", "reward_model"))
    frozen = Frozen(reference=reference, reward=reward)
    start = family.init(pipeline.config, frozen, pipeline.key)
    state = last_checkpoint(run, trained, start) if same_shape(pipeline, trained) else None
    return frozen, last_policy(run, start) if state is None else state


def same_shape(pipeline: Pipeline, trained: RLHFConfig) -> bool:
    """Whether a training state of the run is one of the pipeline's algorithm too."""
    if not isinstance(trained.algo, PolicyGradientConfig):
        return False
    return trained.algo.critic == policy_gradient(pipeline.config).critic


def last_checkpoint(run: Path, trained: RLHFConfig, like: TrainState) -> TrainState | None:
    """The newest training state of a run, None if it has none."""
    folder = RunDir(run).checkpoints / "state" / trained.algo.name
    if not folder.is_dir():
        return None
    store = CheckpointStore(folder, trained.run.keep_checkpoints)
    try:
        latest = store.latest()
        return None if latest is None else store.restore(latest, like)[0]
    finally:
        store.close()


def last_policy(run: Path, start: TrainState) -> TrainState:
    """`start` with the networks of the run, and the KL coefficient it logged last."""
    stored, _ = load_params(RunDir(run).params("policy"))
    params = {name: stored.get(name, own) for name, own in start.params.items()}
    logged = [row.get("objective/kl_coef") for row in read_rows(RunDir(run).metrics)]
    logged = [x for x in logged if x is not None]
    extra = dict(start.extra)
    if logged:
        extra["kl_coef"] = jnp.asarray(logged[-1], jnp.float32)
    return dataclasses.replace(start, params=params, extra=extra)
