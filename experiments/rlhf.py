"""Supervised model, reward model and PPO on a text task.

python -m experiments.rlhf                          # the embedded task, about two minutes
python -m experiments.rlhf task=imdb                # real reviews and human ratings
python -m experiments.rlhf algo.kl_coef=0.1 model=small seed=3 sink=wandb
python -m experiments.rlhf resume=outputs/rlhf/...  # go on with a run that was stopped
python -m experiments.rlhf -m seed=1,2,3            # many runs as lanes of one program
python -m experiments.rlhf -m experiment=ablation   # a question, its runs and its answer
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments._cli import launch
from rlhf_jax import runtime
from rlhf_jax.checks import check_config
from rlhf_jax.checks.idle import idle
from rlhf_jax.config import RLHFConfig


def check(config: RLHFConfig, typed: Sequence[str]) -> Iterable[str]:
    """Refuses settings that cannot work; lines on those typed that change nothing."""
    check_config(config)
    return list(idle(config, typed))


def main(config: RLHFConfig, output_dir: Path) -> None:
    """Runs the pipeline in `output_dir`."""
    runtime.setup(config.run)
    runtime.connect(config.run)
    from rlhf_jax.train.run import run_rlhf  # imports jax, so only after the set-up

    run_rlhf(config, output_dir)


if __name__ == "__main__":
    launch(main, "rlhf", RLHFConfig, resumable=True, check=check)
