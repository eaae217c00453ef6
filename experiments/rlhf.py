"""Supervised model, reward model and PPO on a text task.

python -m experiments.rlhf                          # the embedded task, about two minutes
python -m experiments.rlhf task=imdb                # real reviews and human ratings
python -m experiments.rlhf algo.kl_coef=0.1 model=small seed=3 sink=wandb
python -m experiments.rlhf resume=outputs/rlhf/...  # go on with a run that was stopped
python -m experiments.rlhf -m seed=1,2,3            # one run after the other
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from experiments._cli import launch
from experiments._overrides import key_of
from rlhf_jax import runtime
from rlhf_jax.checks import check_config
from rlhf_jax.checks.idle import idle
from rlhf_jax.config import RLHFConfig
from rlhf_jax.io.console import warn


def main(config: RLHFConfig, output_dir: Path) -> None:
    """Runs the pipeline in `output_dir`."""
    check_config(config)
    for line in idle(config, [key_of(typed) for typed in HydraConfig.get().overrides.task]):
        warn(line)
    runtime.setup(config.run)
    runtime.connect(config.run)
    from rlhf_jax.train.run import run_rlhf  # imports jax, so only after the set-up

    run_rlhf(config, output_dir)


if __name__ == "__main__":
    launch(main, "rlhf", RLHFConfig, resumable=True)
