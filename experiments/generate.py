"""Completions of a finished run: the tuned model beside the reference it started from.

python -m experiments.generate run=outputs/rlhf/...                        # asks for prompts
python -m experiments.generate run=outputs/rlhf/... prompt="the plot was"
python -m experiments.generate run=outputs/rlhf/... prompts=prompts.txt output=answers.jsonl
python -m experiments.generate run=... prompt="it was" num_samples=4 sampling.temperature=0.7
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from omegaconf import OmegaConf

from experiments._cli import SCHEMAS, launch, thawed
from rlhf_jax import runtime
from rlhf_jax.checks import check_leaf, leaves
from rlhf_jax.config import ConfigError, RLHFConfig, SamplingConfig, choice
from rlhf_jax.io.run_dir import RunDir


@dataclass(frozen=True)
class SamplingOverrides:
    """As `SamplingConfig`; null keeps what the run trained with."""

    temperature: Optional[float] = None
    top_k: Optional[int] = None
    top_p: Optional[float] = None
    min_length: Optional[int] = None
    max_length: Optional[int] = None


@dataclass(frozen=True)
class GenerateConfig:
    """`python -m experiments.generate`; without `prompt` and `prompts` it asks for them."""

    run: Optional[str] = None  # directory of a finished run of experiments.rlhf
    prompt: Optional[str] = None
    prompts: Optional[str] = None  # one prompt a line, or .jsonl with {"prompt"}
    output: Optional[str] = None  # .jsonl file for the answers
    num_samples: int = 1  # completions of each model for each prompt
    seed: int = 0
    device: str = choice("auto", "cpu", "gpu", "tpu")
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)


def main(config: GenerateConfig, output_dir: Path) -> None:
    """Answers prompts with a finished run."""
    trained, sampling = prepare(config)
    run = dataclasses.replace(trained.run, device=config.device)
    runtime.setup(run)
    runtime.connect(run)
    from rlhf_jax.train.answer import open_answerer  # imports jax, so only after the set-up
    from rlhf_jax.train.ask import answer_prompts, converse, read_prompts

    answerer = open_answerer(
        trained, sampling, Path(config.run or ""), config.num_samples, config.seed
    )
    output = None if config.output is None else Path(config.output)
    if config.prompt is not None:
        answer_prompts(answerer, [config.prompt], output)
    elif config.prompts is not None:
        answer_prompts(answerer, read_prompts(Path(config.prompts)), output)
    else:
        converse(answerer, output)


def prepare(config: GenerateConfig) -> tuple[RLHFConfig, SamplingConfig]:
    """The settings of the run asked for, and how to sample from it."""
    for key, f, value in leaves(config):
        check_leaf(key, f, value)
    if config.num_samples < 1:
        raise ConfigError("num_samples", config.num_samples, "must be above 0")
    if config.prompt is not None and config.prompts is not None:
        raise ConfigError("prompt", config.prompt, "give prompt or prompts, not both")
    trained = load_run_config(config.run)
    given = {k: v for k, v in dataclasses.asdict(config.sampling).items() if v is not None}
    sampling = dataclasses.replace(trained.sampling, **given)
    if sampling.min_length > sampling.max_length:
        accepted = f"must be at most sampling.max_length={sampling.max_length}"
        raise ConfigError("sampling.min_length", sampling.min_length, accepted)
    if sampling.max_length >= trained.model.context:
        accepted = f"must be below the model's context of {trained.model.context}"
        raise ConfigError("sampling.max_length", sampling.max_length, accepted)
    return trained, sampling


def load_run_config(run: str | None) -> RLHFConfig:
    """The settings a run directory was made with."""
    if run is None:
        raise ConfigError("run", run, "give the directory of a finished run, run=outputs/rlhf/...")
    saved = Path(run) / ".hydra" / "config.yaml"
    if not saved.is_file():
        raise ConfigError("run", run, "not a run directory (no .hydra/config.yaml)")
    if not RunDir(run).params("policy").is_file():
        remedy = f"finish it with python -m experiments.rlhf resume={run}"
        raise ConfigError(
            "run", run, f"the run is not finished (no checkpoints/policy.safetensors); {remedy}"
        )
    stored = OmegaConf.load(saved)
    schema = thawed(RLHFConfig)
    schema.task = thawed(SCHEMAS["task", f"base_{stored.task.name}"])
    return OmegaConf.to_object(OmegaConf.merge(schema, stored))  # pyright: ignore


def quoted(arguments: list[str]) -> list[str]:
    """Quotes `prompt=...` for Hydra, so that commas, apostrophes and numbers are plain text.

    >>> quoted(["prompt=it was good, and", "seed=1"])
    ['prompt="it was good, and"', 'seed=1']
    """

    def quote(argument: str) -> str:
        key, _, value = argument.partition("=")
        if key != "prompt" or value[:1] in ("'", '"') or value == "null":
            return argument
        escaped = value.replace('\\"', '\\\\"').replace('"', '\\"')
        return f'prompt="{escaped}"'

    return [quote(a) for a in arguments]


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:])
    launch(main, "generate", GenerateConfig)
