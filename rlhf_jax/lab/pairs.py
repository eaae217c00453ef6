"""Preference data for lanes: each seed draws its own pairs of each instance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rlhf_jax.config import EnumerableConfig, PreferenceConfig, RLHFConfig, of_kind
from rlhf_jax.lab.bench import Bench, listed
from rlhf_jax.tasks import make_task
from rlhf_jax.train.preference_data import PreferenceData, make_data
from rlhf_jax.types import PairBatch


def pair_lanes(bench: Bench, config: RLHFConfig, seeds: Sequence[int]) -> PreferenceData:
    """Pairs with what the references say of them, every array [I * R, N, ...]."""
    assert isinstance(config.task, EnumerableConfig)
    task, batches = config.task, []
    for known in bench.tasks:
        number = listed(known).number
        for seed in seeds:
            drawn = dataclasses.replace(task, instance=number, data_seed=int(seed), num_texts=1)
            batches.append(make_task(drawn).train_pairs)
    pairs: PairBatch = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(a) for a in x]), *batches)
    references = jax.tree.map(
        lambda x: jnp.repeat(x, len(seeds), axis=0), bench.places.frozen.reference
    )
    prepare = make_data(bench.model, of_kind(config.algo, PreferenceConfig).loss, batch_size=512)
    return jax.jit(lambda *x: jax.lax.map(lambda lane: prepare(*lane), x))(references, pairs)
