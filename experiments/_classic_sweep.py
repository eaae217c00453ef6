"""What a multirun of experiments.ppo ends with: a table of arms and of what each setting does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from rlhf_jax.io.console import note
from rlhf_jax.io.run_dir import write_text
from rlhf_jax.report.classic import as_csv, lines, read_arms


class Table(Callback):
    """Prints the table and writes results.csv into the directory of the sweep."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After the last job."""
        root = Path(str(config.hydra.sweep.dir))
        arms = read_arms(root)
        if not arms:
            return
        write_text(root / "results.csv", as_csv(arms))
        for line in lines(arms):
            note(line)
        note(f"Everything is in {root}")
