"""An audit from settings to files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.checks import check_task
from rlhf_jax.config import ConfigError, RLHFConfig
from rlhf_jax.io.audit_table import print_audit
from rlhf_jax.io.comparison import print_run_dir
from rlhf_jax.io.console import note, warn
from rlhf_jax.io.run_dir import RunDir, run_facts, write_json, write_text
from rlhf_jax.models.functional import parameter_count
from rlhf_jax.report.audit import audit_csv, plot_audit
from rlhf_jax.tasks import make_task
from rlhf_jax.train.audit.batch import AuditBatch, freeze
from rlhf_jax.train.audit.gradients import audit, check_first_step
from rlhf_jax.train.audit.policy import Plan, policy_of
from rlhf_jax.train.audit.steps import audited, roll_out, take_steps
from rlhf_jax.train.experience import make_experience
from rlhf_jax.train.loop import Session
from rlhf_jax.train.pipeline import make_pipeline
from rlhf_jax.train.policy_gradient import steps_per_update
from rlhf_jax.train.run import closing_sinks, load_python_reward
from rlhf_jax.train.scoring import host_score
from rlhf_jax.train.stages import Pipeline
from rlhf_jax.train.state import Frozen, TrainState, policy_gradient


def run_audit(config: RLHFConfig, plan: Plan, path: Path) -> None:
    """Writes audit.json, audit.csv and the heat map, and prints the tables."""
    start = time.monotonic()
    most = steps_per_update(policy_gradient(audited(config, plan.batch_size)))
    if plan.steps > most:
        accepted = f"one update has {most} steps on its samples; use {most} or fewer"
        raise ConfigError("steps", plan.steps, accepted)
    run_dir = empty_dir(path)
    reward, task = load_python_reward(config), make_task(config.task)
    check_task(config, task)
    for line in task.notes:
        note(line)
    score_host = None if reward is None else host_score(task.codec, reward)
    with closing_sinks(config, run_dir) as sink:
        session = Session(run_dir=run_dir, run=config.run, sink=sink)
        pipeline = make_pipeline(config, task, session, score_host)
        found = compare(pipeline, plan, *policy_of(pipeline, plan))
    found |= run_facts() | {"seconds": time.monotonic() - start}
    write_json(path / "audit.json", found)
    write_text(path / "audit.csv", audit_csv(found))
    plot_audit(path)
    print_audit(found)
    print_run_dir(path)


def empty_dir(path: Path) -> RunDir:
    """The audit's directory; one that holds a run or an audit is refused."""
    if RunDir(path).metrics.exists() or (path / "audit.json").exists():
        raise ConfigError("hydra.run.dir", str(path), "already holds a run; choose another")
    return RunDir(path).create()


def compare(pipeline: Pipeline, plan: Plan, frozen: Frozen, state: TrainState) -> dict[str, Any]:
    """Where the audit looked, its check, and every arm."""
    model, config = pipeline.model, audited(pipeline.config, plan.batch_size)
    args = (model, config, state)
    note(f"audit: draws and scores {policy_gradient(config).completions} completions")
    with pipeline.session.busy("the audit"):
        scored = roll_out(pipeline, config, frozen, state)
        batch = jax.jit(freeze, static_argnums=(0, 1))(*args, scored, frozen.reference)
        learn_from = jax.jit(make_experience, static_argnums=(0, 1))
        experience, known = learn_from(*args, scored, frozen.reference)
        note("audit: compares the surrogates before the first step")
        first = check_first_step(*args, batch)
        note(f"audit: takes {plan.steps} steps, then the gradient of every loss and KL term")
        found = audit(model, config, take_steps(*args, experience, plan.steps), batch)
    place = place_of(config, plan, state, batch)
    place |= {"score": float(jnp.mean(scored.raw)), "kl": float(known["objective/kl"])}
    place |= {name: found["arms"][0][name] for name in ("approx_kl", "ratio_max")}
    return {"place": place, "first_step": checked(first)} | found


def place_of(
    config: RLHFConfig, plan: Plan, state: TrainState, batch: AuditBatch
) -> dict[str, Any]:
    """Which policy, which rollout and which coefficients."""
    algo, learnt = policy_gradient(config), batch.experience.learnt
    made = algo if plan.trained is None else plan.trained.algo
    return {
        "run": None if plan.run is None else str(plan.run),
        "task": config.task.name,
        "policy": made.name,
        "updates": plan.updates if plan.trained is None else made.updates,
        "algo": algo.name,
        "advantage": algo.advantage,
        "steps": plan.steps,
        "steps_per_update": steps_per_update(algo),
        "completions": int(learnt.shape[0]),
        "tokens": int(jnp.sum(learnt)),
        "parameters": parameter_count(state.params["policy"]),
        "kl_coef": float(state.extra["kl_coef"]),
        "penalty_coef": float(state.extra["penalty_coef"]),
    }


def checked(first: dict[str, Any]) -> dict[str, Any]:
    """Warns where surrogates differ before anything was learnt from the rollout."""
    cosine, length = first["cosine"], first["length"]
    if cosine is None or cosine < 0.999 or length > 0.01:
        warn(
            "before the first step every ratio should be 1 and all surrogates one; their smallest "
            f"cosine is {cosine}, the largest |ratio - 1| {first['ratio_error']}. Do the sampler "
            "and the forward pass agree? Try algo.behavior_log_probs=forward."
        )
    return first
