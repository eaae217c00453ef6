"""Which jobs share a compiled program, which share frozen parameters, and how they are cut up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from rlhf_jax.config import OnlineDPOConfig, PolicyGradientConfig, RLHFConfig, split_dynamic
from rlhf_jax.io.run_dir import config_hash, flat
from rlhf_jax.sweep.jobs import Job

T = TypeVar("T")
VALUE_KEYS = ("value_head", "value_init", "value_layers")  # the stages have no value function
MAPPED = 4  # lanes of a mapped program: more are no faster, and few are soon finished
SHARED_FROM = 8  # vmapped lanes from which it pays to keep one copy of the frozen parameters


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Jobs that are handed to a worker together."""

    jobs: tuple[Job, ...]
    stages: tuple[str, ...]  # keys of the stages they need


@dataclasses.dataclass(frozen=True)
class Group:
    """Jobs of one compiled program, or (solo) of no program in common."""

    id: int
    strategy: str  # map, vmap or solo
    lanes: int  # of the program; shorter chunks are padded
    shared: bool  # the lanes of a chunk share their frozen parameters
    chunks: tuple[Chunk, ...]
    static: Mapping[str, Any]  # flat, what the program is compiled for

    @property
    def jobs(self) -> list[Job]:
        """All jobs, in the order they are run."""
        return [job for chunk in self.chunks for job in chunk.jobs]


def make_plan(jobs: Sequence[Job], *, accelerator: bool, workers: int) -> list[Group]:
    """Groups of jobs that differ in traced numbers alone, cut into chunks."""
    groups = by(lambda job: group_key(job.config), jobs)
    return [
        make_group(number, group, accelerator=accelerator, workers=workers)
        for number, group in enumerate(groups.values())
    ]


def make_group(number: int, jobs: Sequence[Job], *, accelerator: bool, workers: int) -> Group:
    """One group: its strategy, and chunks that share their frozen parameters."""
    config = jobs[0].config
    strategy = strategy_of(config, accelerator)
    sets = list(by(lambda job: stage_key(job.config), jobs).values())
    most = config.sweep.max_lanes
    if strategy == "solo":
        lanes, shared, parts = 1, True, [[job] for job in jobs]
    elif strategy == "map":
        shared = True
        share = -(-len(jobs) // workers)
        lanes = min(share, max(map(len, sets)), most or MAPPED, MAPPED)
        parts = [part for s in sets for part in cut(s, lanes)]
    else:
        shared = len(sets) == 1 or min(map(len, sets)) >= SHARED_FROM
        batches = sets if shared else [list(jobs)]
        share = -(-max(map(len, batches)) // workers)
        lanes = min(share, most or share)
        parts = [part for batch in batches for part in cut(batch, lanes)]
    return Group(
        id=number,
        strategy=strategy,
        lanes=lanes,
        shared=shared,
        chunks=tuple(Chunk(tuple(part), stages_of(part)) for part in parts),
        static=flat(static_part(config)),
    )


def strategy_of(config: RLHFConfig, accelerator: bool) -> str:
    """How the lanes of a group are run; what has no lanes is run alone."""
    asked = config.sweep.lanes
    has_lanes = isinstance(config.algo, PolicyGradientConfig | OnlineDPOConfig)
    if not has_lanes or ":" in config.task.reward:  # a plain Python reward is called per run
        return "solo"
    if asked == "auto":
        return "vmap" if accelerator else "map"
    return asked


def cut(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Consecutive parts, the last one perhaps shorter.

    >>> cut([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    return [items[i : i + size] for i in range(0, len(items), size)]


def by(key: Callable[[T], Hashable], items: Iterable[T]) -> dict[Hashable, list[T]]:
    """Items by a key, in the order they come in."""
    found: dict[Hashable, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def static_part(config: RLHFConfig) -> dict[str, Any]:
    """The settings a training program is compiled for.

    A traced number that may be none is there with whether it is: that is another program.
    """
    static, hparams = split_dynamic(config)
    part = {name: kept(getattr(static, name)) for name in ("task", "model", "sampling", "algo")}
    part |= {"optim": kept(static.optim), "eval.num_prompts": config.eval.num_prompts}
    part |= {"run.matmul_precision": config.run.matmul_precision}
    absent = sorted(k for k, v in flat(hparams).items() if v is None and not is_stage(k))
    return part | {f"{key}.none": True for key in absent}


def is_stage(key: str) -> bool:
    """Whether a setting is one of the supervised or the reward model."""
    return key.split(".")[0] in ("sft", "reward_model")


def kept(settings: Any) -> dict[str, Any]:
    """Static settings by name, with their kind; traced numbers, blank by now, left out."""
    fields = [f for f in dataclasses.fields(settings) if not f.metadata.get("dynamic")]
    found = {f.name: getattr(settings, f.name) for f in fields}
    inner = {k: kept(v) if dataclasses.is_dataclass(v) else v for k, v in found.items()}
    return inner | {"kind": type(settings).__name__}


def group_key(config: RLHFConfig) -> str:
    """Equal for jobs that can be lanes of one program."""
    return config_hash(static_part(config))


def sft_key(config: RLHFConfig) -> str:
    """Equal for jobs whose supervised models are the same."""
    return config_hash(sft_parts(config))


def stage_key(config: RLHFConfig) -> str:
    """Equal for jobs whose supervised and reward models are the same."""
    more = {k: dataclasses.asdict(getattr(config, k)) for k in ("reward_model", "sampling")}
    return config_hash(sft_parts(config) | more)


def sft_parts(config: RLHFConfig) -> dict[str, Any]:
    """What the supervised model depends on, as far as it can be told without the data."""
    task, model = dataclasses.asdict(config.task), dataclasses.asdict(config.model)
    return {
        "task": {k: v for k, v in task.items() if k != "reward"},
        "model": {k: v for k, v in model.items() if k not in VALUE_KEYS},
        "sft": dataclasses.asdict(config.sft),
        "precision": config.run.matmul_precision,
        "seed": config.seed_of_stages,
    }


def stages_of(jobs: Iterable[Job]) -> tuple[str, ...]:
    """Keys of the stages that jobs need, each once."""
    return tuple(dict.fromkeys(stage_key(job.config) for job in jobs))


def differing(statics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each group's static settings those in which the groups differ."""
    keys = dict.fromkeys(key for static in statics for key in static)
    differ = [k for k in keys if len({repr(static.get(k)) for static in statics}) > 1]
    return [{k: static.get(k) for k in differ} for static in statics]
