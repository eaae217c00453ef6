"""The number of a job that a search maximises: which ones there are, known before anything runs."""

from __future__ import annotations

from rlhf_jax.config import (
    AutomatonConfig,
    ConfigError,
    ImdbConfig,
    JsonlConfig,
    RLHFConfig,
    SweepConfig,
)

ALWAYS = ("objective/scores", "objective/kl", "policy/entropy_avg")
ALWAYS += ("tokens/completion_length", "tokens/finished")


def objectives(config: RLHFConfig) -> set[str]:
    """The numbers after training of summary.json.

    >>> sorted(objectives(RLHFConfig()) - set(ALWAYS))
    ['gold/score', 'gold/std']
    """
    task, found = config.task, set[str](ALWAYS)
    if not isinstance(task, ImdbConfig | JsonlConfig):
        found |= {"gold/score", "gold/std"}
    if isinstance(task, ImdbConfig):
        found |= {"judge/score", "judge/positive"}
    if task.reward != "reward_model":
        found |= {"reward_model/score"}
    if isinstance(task, AutomatonConfig) and task.reward == "gold":
        found |= {"exact/source_gap", "exact/source_gap_error"}
    return found


def check_objective(config: RLHFConfig, *, search: bool) -> None:
    """Refuses an objective that no job will have; the default may idle where nobody reads it.

    Raises:
      ConfigError: it is not there.
    """
    name, accepted = config.sweep.objective, objectives(config)
    if name not in accepted and (search or name != SweepConfig.objective):
        named = f"{config.task.name} has {', '.join(sorted(accepted))}"
        raise ConfigError("sweep.objective", name, named)
