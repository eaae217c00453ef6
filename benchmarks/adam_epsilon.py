"""What the place of Adam's epsilon does to the first update of PPO, under `preset=oai2019`.

    python -m benchmarks.adam_epsilon

TensorFlow adds epsilon to the uncorrected root of the second moment, optax and PyTorch to the
corrected one, which makes their first steps larger (Huang et al. 2024, "The N implementation
details of RLHF with PPO"; its numbers are PUBLISHED). Here both styles take the first update of the
preset on the default task, from the same models and samples, at the one of RATES at which the
TensorFlow style moves as far as published. Writes benchmarks/results/adam_epsilon.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import hydra
import numpy as np
from omegaconf import OmegaConf

from benchmarks.records import RESULTS
from experiments._schemas import register_schemas
from rlhf_jax import runtime
from rlhf_jax.config import RLHFConfig, split_dynamic
from rlhf_jax.io.run_dir import run_facts, write_json

# tensorflow, optax
PUBLISHED = {
    "policy/approxkl_avg": (3.7e-4, 2.4e-3),
    "policy/clipfrac_avg": (0.0046, 0.0202),
    "val/ratio_max": (1.23, 1.81),
    "val/ratio_var": (7.7e-4, 5.4e-3),
}
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4)
EPSILONS = (1e-5, 3e-5, 1e-4, 3e-4)  # the first is the preset's; the others explain the size
SEEDS = 4
# Written before the first run: optax moves further in every number and seed, and the ratio of the
# two approximate KLs is within a factor of 3 of the published one.
FACTOR = 3.0
RECORD = RESULTS / "adam_epsilon.json"


def settings() -> RLHFConfig:
    """The preset with its 512 texts an update."""
    register_schemas(base_rlhf=RLHFConfig)
    with hydra.initialize_config_module("configs", version_base="1.3"):
        overrides = ["preset=oai2019", "algo.batch_size=512", "algo.updates=100"]
        return OmegaConf.to_object(hydra.compose("rlhf", overrides))


def first_updates(config: RLHFConfig, folder: Path) -> dict[str, np.ndarray]:
    """Each number of PUBLISHED as an array [style, epsilon, rate, seed]."""
    import jax  # only after the platform is set up

    from rlhf_jax.io.run_dir import RunDir
    from rlhf_jax.io.sinks import make_sinks
    from rlhf_jax.tasks import make_task
    from rlhf_jax.train import policy_gradient
    from rlhf_jax.train.loop import Session
    from rlhf_jax.train.pipeline import make_pipeline, trained_models
    from rlhf_jax.train.tuning import make_algorithm

    run_dir = RunDir(folder)
    run_dir.create()
    sink = make_sinks(config.sink, run_dir, dataclasses.asdict(config))
    session = Session(run_dir=run_dir, run=config.run, sink=sink)
    pipeline = make_pipeline(config, make_task(config.task), session)
    frozen = trained_models(pipeline)
    prompts = jax.device_put(pipeline.task.train_prompts)
    rows = []
    for style in ("tensorflow", "optax"):
        optim = dataclasses.replace(config.optim, epsilon_style=style)
        styled = dataclasses.replace(config, optim=optim)
        step = jax.jit(make_algorithm(dataclasses.replace(pipeline, config=styled)).train_step)
        for epsilon, rate in itertools.product(EPSILONS, RATES):
            hparams = split_dynamic(styled)[1]
            hparams["optim"] |= {"learning_rate": rate, "epsilon": epsilon}
            for seed in range(SEEDS):
                state = policy_gradient.init(styled, frozen, jax.random.key(seed))
                rows.append(jax.device_get(step(state, prompts, frozen, hparams)[1]))
    shape = (2, len(EPSILONS), len(RATES), SEEDS)
    return {k: np.reshape([float(row[k]) for row in rows], shape) for k in PUBLISHED}


def nearest_rate(found: dict[str, np.ndarray], epsilon: int) -> int:
    """The rate at which the TensorFlow style moves about as far as published."""
    name = "policy/approxkl_avg"
    moved = found[name][0, epsilon].mean(axis=-1)
    return int(np.abs(np.log(moved / PUBLISHED[name][0])).argmin())


def main() -> None:
    """Runs the first updates, prints the comparison and writes the record."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    config = settings()
    runtime.setup(config.run)
    runtime.connect(config.run)
    with TemporaryDirectory() as folder:
        found = first_updates(config, Path(folder))
    rates = [nearest_rate(found, i) for i in range(len(EPSILONS))]
    print(f"first update at learning rate {RATES[rates[0]]:g}, mean of {SEEDS} seeds\n")
    print("| | TensorFlow | optax | ratio | published |\n|---|---|---|---|---|")
    larger = []
    for name, (theirs, others) in PUBLISHED.items():
        tensorflow, optax = found[name][:, 0, rates[0]]
        larger.append((optax > tensorflow).all())
        ratio, published = optax.mean() / tensorflow.mean(), others / theirs
        means = f"{tensorflow.mean():.3g} | {optax.mean():.3g}"
        print(f"| `{name}` | {means} | {ratio:.2f} | {published:.2f} |")
    gaps = found["policy/approxkl_avg"].mean(axis=-1)
    gaps = [float(gaps[1, i, at] / gaps[0, i, at]) for i, at in enumerate(rates)]
    print("\nratio of the approximate KLs by epsilon, each at its own such rate:")
    print(", ".join(f"{e:g}: {gap:.2f}" for e, gap in zip(EPSILONS, gaps)))
    wanted = PUBLISHED["policy/approxkl_avg"][1] / PUBLISHED["policy/approxkl_avg"][0]
    sign, size = all(larger), 1 / FACTOR <= gaps[0] / wanted <= FACTOR
    print(f"\nsign as published: {sign}; size within a factor of {FACTOR:g}: {size}")
    record = {"epsilons": EPSILONS, "rates": RATES, "chosen": [RATES[at] for at in rates]}
    record |= {"sign": bool(sign), "size": bool(size), "gaps": gaps, "published": PUBLISHED}
    record["measured"] = {k: v.tolist() for k, v in found.items()}
    write_json(RECORD, record | {"facts": run_facts()})
    sys.exit(not (sign and size))


if __name__ == "__main__":
    main()
