"""Instances of a listed task side by side: references trained together, everything exact known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as List

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlhf_jax.checks import check_task
from rlhf_jax.config import EnumerableConfig, ModelConfig, RLHFConfig, split_dynamic
from rlhf_jax.exact.policy import policy_log_probs
from rlhf_jax.models.functional import Model
from rlhf_jax.models.sizes import as_built
from rlhf_jax.models.transformer import make_language_model
from rlhf_jax.models.value_heads import init_head
from rlhf_jax.tasks import make_task
from rlhf_jax.tasks.protocol import Task, listed
from rlhf_jax.tasks.tree import Tree
from rlhf_jax.train import sft
from rlhf_jax.train.loop import repeat
from rlhf_jax.train.state import Frozen, stream
from rlhf_jax.types import Array, Params, Sequences, SpecialTokens, TextRollout, record


@record
class Place:
    """One instance as the algorithms and the measurements see it. P prompts, S completions."""

    frozen: Frozen  # its reward holds the table, so that instances share one program
    prompts: Sequences  # [P, k]
    source: Array  # [P, S] log-probabilities of what pairs are drawn from
    ref: Array  # [P, S] of the reference
    rewards: Array  # [P, S]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)  # known by identity
class Bench:
    """What the runs of one task share: the model, the tree, and the instances, stacked."""

    config: RLHFConfig  # its task is that of the first instance
    model: Model
    tree: Tree
    special: SpecialTokens
    tasks: tuple[Task, ...]
    places: Place  # every array [I, ...]


def make_bench(config: RLHFConfig, instances: List[int]) -> Bench:
    """Builds the instances, and trains their references in one program."""
    assert isinstance(config.task, EnumerableConfig)
    chosen = [dataclasses.replace(config.task, instance=i) for i in instances]
    tasks = tuple(make_task(task) for task in chosen)
    check_task(config, tasks[0])
    codec, exact = tasks[0].codec, listed(tasks[0])
    model_config = as_built(config.model, codec.vocab_size)
    config = dataclasses.replace(config, model=model_config)
    model = make_language_model(model_config, codec.vocab_size, codec.special, ends=codec.ends)
    references = train_references(config, model, tasks)
    bench = Bench(
        config=config,
        model=model,
        tree=exact.tree,
        special=codec.special,
        tasks=tasks,
        places=Place(
            frozen=Frozen(
                reference=references, reward=reward_params(model_config, references, tasks)
            ),
            prompts=stacked([listed(task).prompts for task in tasks]),
            source=jnp.stack([jnp.asarray(listed(task).source) for task in tasks]),
            ref=jnp.zeros(()),
            rewards=jnp.stack([jnp.asarray(listed(task).gold) for task in tasks]),
        ),
    )
    walk = jax.jit(lambda lanes: lax.map(lambda lane: log_probs_of(bench, *lane), lanes))
    ref = walk((references, bench.places.prompts))
    return dataclasses.replace(bench, places=dataclasses.replace(bench.places, ref=ref))


def stacked(trees: List[Sequences]) -> Sequences:
    """Texts of several instances, [I, ...]."""
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(a) for a in x]), *trees)


def train_references(config: RLHFConfig, model: Model, tasks: List[Task]) -> Params:
    """Supervised models of all instances, every array [I, ...]."""
    static, hparams = split_dynamic(config.sft)
    texts = stacked([task.train_text for task in tasks])
    keys = jnp.stack(
        [jax.random.fold_in(jax.random.key(config.seed), listed(t).number) for t in tasks]
    )
    step = repeat(sft.make_train_step(model, static))
    count = jnp.asarray(config.sft.steps, jnp.int32)

    def fit(key: Array, texts: Sequences) -> Params:
        return step(sft.init(model, config.sft, key), texts, hparams, count)[0].params

    return jax.jit(jax.vmap(fit))(keys, texts)


def reward_params(config: ModelConfig, references: Params, tasks: List[Task]) -> Params:
    """The reward of each instance as parameters: the table and the prompts it is looked up by."""
    head = init_head(stream(jax.random.key(0), "head"), config.width)
    heads = jax.tree.map(lambda x: jnp.stack([x] * len(tasks)), head)
    tables = jnp.stack([jnp.asarray(listed(task).gold) for task in tasks])
    prompts = stacked([listed(task).prompts for task in tasks]).tokens
    return {"trunk": references, "head": heads, "table": tables, "prompts": prompts}


def table_reward(tree: Tree):
    """`(frozen, rollout) -> scores [B]` by the table in `frozen.reward`."""

    def score(frozen: Frozen, rollout: TextRollout) -> Array:
        known = frozen.reward["prompts"]  # [P, k]
        same = jnp.all(rollout.prompt_tokens[:, None, :] == known[None], axis=-1)  # [B, P]
        prompt = jnp.argmax(same, axis=1)
        return frozen.reward["table"][prompt, tree.index(rollout.completion_tokens)]

    return score


def log_probs_of(bench: Bench, params: Params, prompts: Sequences) -> Array:
    """Log-probability of every completion of an instance under a policy, [P, S]."""
    settings = {"config": bench.config.model, "sampling": bench.config.sampling}
    return policy_log_probs(bench.model, params, bench.tree, prompts, **settings)


def lanes(places: Place, seeds: int) -> Place:
    """Arrays [I, ...] as [I * R, ...]: each instance once a seed, side by side."""
    return jax.tree.map(lambda x: jnp.repeat(x, seeds, axis=0), places)


def seed_keys(seeds: List[int], instances: int) -> Array:
    """Keys [I * R] of the lanes."""
    keys = jnp.stack([jax.random.key(int(seed)) for seed in np.asarray(seeds)])
    return jnp.concatenate([keys] * instances)
