"""PPO on environments: a gridworld whose answer is known, or the field's control tasks.

python -m experiments.ppo                          # gridworld; pictures of what is learnt
python -m experiments.ppo env.layout=cliff env.slip=0.2
python -m experiments.ppo env=cartpole seeds=8     # eight seeds, shared among the cores
python -m experiments.ppo env=gymnax env.name=Acrobot-v1 recipe=cleanrl
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from experiments._cli import launch
from experiments._schemas import CLASSIC_GROUPS
from rlhf_jax import runtime
from rlhf_jax.checks.classic import check_classic, idle_classic
from rlhf_jax.config import ClassicConfig
from rlhf_jax.io.console import note, short_number
from rlhf_jax.machine import accelerator_likely, cores

MEANING = {
    "episode/return": "return of the last 100 episodes",
    "exact/return": "exact discounted return of the policy",
    "exact/regret_share": "regret, as a share of the optimum",
    "exact/value_error": "error of the value network (root mean square)",
}


def hints(config: ClassicConfig, typed: Sequence[str]) -> Iterable[str]:
    """What was typed and changes nothing; settings that cannot work are refused."""
    check_classic(config)
    return idle_classic(config, typed)


def main(config: ClassicConfig, output_dir: Path) -> None:
    """Trains in `output_dir`."""
    count = worker_count(config)
    # Programs over lanes can wait for ever in a pool of several threads; small ones need no more.
    threads = config.run.threads or 1
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, threads=threads))
    runtime.setup(config.run)
    runtime.connect(config.run)
    # Both import jax, so only after the set-up.
    from experiments._classic_workers import source
    from rlhf_jax.train.classic_run import run_classic

    summary, pictures = run_classic(config, output_dir, source(count, output_dir / "logs"))
    for name, meaning in MEANING.items():
        if name in summary["final"]:
            note(f"{meaning}: {spread(summary['final'][name])}")
    speed = f"{summary['steps_per_second'] / 1000:.0f} thousand environment steps a second"
    note(f"{speed}; {summary['seconds']['training']:.1f} s of training")
    if pictures:
        note(f"Pictures: {pictures[-2]}\nThrough training: {pictures[-1]}")
    note(f"Everything is in {output_dir}")


def worker_count(config: ClassicConfig) -> int:
    """Processes that train; 1 is this one alone.

    >>> worker_count(ClassicConfig(seeds=1, workers=4))
    1
    """
    run = config.run
    if accelerator_likely(run) or (config.workers is None and run.threads is not None):
        return 1
    return min(config.workers or cores(), config.seeds)


def spread(values: list[float]) -> str:
    """The mean of all seeds, and the range.

    >>> spread([1.0]), spread([1.0, 2.0])
    ('1', '1.5 (from 1 to 2, 2 seeds)')
    """
    if len(values) == 1:
        return short_number(values[0])
    low, high = short_number(min(values)), short_number(max(values))
    return f"{short_number(fmean(values))} (from {low} to {high}, {len(values)} seeds)"


if __name__ == "__main__":
    launch(main, "ppo", ClassicConfig, check=hints, groups=CLASSIC_GROUPS)
