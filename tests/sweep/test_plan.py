"""Which jobs become lanes of one program, and how they are cut up."""

import dataclasses
from pathlib import Path

import pytest

from rlhf_jax.config import (
    BestOfNConfig,
    ModelConfig,
    OptimConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RejectionConfig,
    ReviewsConfig,
    RewardModelConfig,
    RLHFConfig,
    RunConfig,
    SweepConfig,
)
from rlhf_jax.sweep.jobs import Job
from rlhf_jax.sweep.plan import differing, group_key, make_plan, sft_key, stage_key

BASE = RLHFConfig(stage_seed=0, task=ReviewsConfig())
change = dataclasses.replace


def jobs_of(*configs):
    return [Job(i, Path(str(i)), config, ()) for i, config in enumerate(configs)]


def plan_of(*configs, accelerator=False, workers=2):
    return make_plan(jobs_of(*configs), accelerator=accelerator, workers=workers)


def numbers(group):
    return [[job.number for job in chunk.jobs] for chunk in group.chunks]


SEEDS = [change(BASE, seed=seed) for seed in range(6)]


def test_traced_numbers_share_a_program_and_choices_do_not():
    clips = [change(BASE, algo=PolicyGradientConfig(clip_eps=eps)) for eps in (0.1, 0.4)]
    heads = [change(BASE, model=ModelConfig(value_head=head)) for head in ("separate", "shared")]
    assert len(plan_of(*clips)) == 1
    groups = plan_of(*heads, *heads)
    assert [numbers(g) for g in groups] == [[[0], [2]], [[1], [3]]]
    assert differing([group.static for group in groups]) == [
        {"model.value_head": h} for h in ("separate", "shared")
    ]


def test_a_traced_number_that_is_none_is_another_program():
    limits = [change(BASE, optim=OptimConfig(max_grad_norm=x)) for x in (1.0, 2.0, None)]
    keys = [group_key(config) for config in limits]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    "other",
    [
        change(BASE, seed=7),
        change(BASE, stage_seed=7),
        change(BASE, run=RunConfig(checkpoint_every=3)),
        change(BASE, reward_model=RewardModelConfig(steps=9)),
    ],
)
def test_what_changes_nothing_in_the_program_does_not_split_it(other):
    assert group_key(other) == group_key(BASE)


def test_lanes_of_a_chunk_share_what_is_frozen():
    own = [change(config, stage_seed=config.seed % 2) for config in SEEDS]
    (group,) = plan_of(*own)
    assert numbers(group) == [[0, 2, 4], [1, 3, 5]] and group.lanes == 3
    assert all(len(chunk.stages) == 1 for chunk in group.chunks)


def test_stages_are_told_apart_by_what_they_depend_on():
    warmer = change(BASE, sampling=change(BASE.sampling, temperature=0.7))
    other = change(BASE, reward_model=RewardModelConfig(steps=9))
    head = change(BASE, model=ModelConfig(value_head="shared"), task=ReviewsConfig(reward="gold"))
    assert stage_key(head) == stage_key(BASE) == stage_key(SEEDS[3])
    assert len({stage_key(c) for c in (BASE, warmer, other, change(BASE, stage_seed=1))}) == 4
    assert sft_key(warmer) == sft_key(other) == sft_key(BASE)
    assert stage_key(change(BASE, stage_seed=None, seed=5)) == stage_key(change(BASE, stage_seed=5))


def test_an_accelerator_takes_all_lanes_at_once():
    (group,) = plan_of(*SEEDS, accelerator=True, workers=1)
    assert (group.strategy, group.lanes, group.shared) == ("vmap", 6, True)
    own = [change(config, stage_seed=None) for config in SEEDS]
    (group,) = plan_of(*own, accelerator=True, workers=1)
    assert (group.lanes, group.shared, len(group.chunks)) == (6, False, 1)
    assert len(group.chunks[0].stages) == 6


def test_the_most_lanes_are_a_limit():
    few = [change(config, sweep=SweepConfig(lanes="vmap", max_lanes=4)) for config in SEEDS]
    (group,) = plan_of(*few, workers=1)
    assert group.lanes == 4 and numbers(group) == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize(
    "config",
    [
        change(BASE, algo=BestOfNConfig()),
        change(BASE, algo=PreferenceConfig()),
        change(BASE, algo=RejectionConfig()),
        change(BASE, task=ReviewsConfig(reward="module:function")),
        change(BASE, sweep=SweepConfig(lanes="solo")),
    ],
)
def test_what_has_no_lanes_runs_alone(config):
    (group,) = plan_of(config, config, accelerator=True)
    assert group.strategy == "solo" and numbers(group) == [[0], [1]]
