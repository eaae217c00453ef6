"""Processes that take turns, and the arithmetic and tables of the benchmarks. Nothing is timed."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import ppo_update_table
from benchmarks.decode_weights import llama
from benchmarks.ppo_update_setup import pipeline_of
from benchmarks.ppo_update_work import SIZES, Work, completions, update_flops
from benchmarks.turns import Worker
from rlhf_jax.config import RunConfig, UserError
from rlhf_jax.models.transformer import make_transformer

from ..parity.update import weights

SMALL = Work(32, 2, 40, heads=4, kv_heads=2, ff_width=48, prompt=3, length=5, episodes=4)
ECHO = """
import os, sys
given = sys.stdin.readline()
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "again":
        print(0.5, flush=True)
    elif line.strip() == "facts":
        print('{"threads": ' + os.environ["NPROC"] + '}', flush=True)
    else:
        sys.exit(3)
"""


def test_a_worker_answers_line_by_line_and_tells_of_its_end():
    worker = Worker([sys.executable, "-c", ECHO], {}).ready()
    assert worker.seconds() == 0.5
    assert worker.facts() == {"threads": 1}
    with pytest.raises(UserError, match="exit status 3"):
        worker.ask("something else")
    worker.close()


def test_counted_arithmetic_is_what_the_compiler_finds_in_the_forward_pass():
    """XLA counts whole rows of attention, and the few in a hundred that are no matrix products.

    The pass is that of an update: to the positions which predict the completion alone.
    """
    work = dataclasses.replace(SMALL, width=128, ff_width=512, heads=4, kv_heads=2)
    pipeline = pipeline_of(work, RunConfig())
    params = jax.eval_shape(pipeline.model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((work.episodes, work.tokens), jnp.int32)
    mask = jax.ShapeDtypeStruct(tokens.shape, bool)
    window = (work.prompt - 1, work.tokens - 1)
    apply = lambda *args: pipeline.model.apply(*args, window=window).logits
    found = jax.jit(apply).lower(params, tokens, mask).cost_analysis()["flops"]
    counted = work.episodes * completions(work, head=True)
    assert counted < found < 1.1 * counted


def test_an_update_of_one_layer_counted_by_hand():
    """D 2, E 2, F 3, V 5; two tokens of which the first is read, one pass of each kind."""
    work = Work(2, 1, 5, heads=1, kv_heads=1, ff_width=3, prompt=1, length=1, episodes=1)
    work = dataclasses.replace(work, epochs=1)
    # One token: 4DE 16, own 16 + 36, attention 2 * 2 * 1 * 2 = 8, head 20. Two, asked at the end:
    # 32 + 52 + attention 2 * 2 * 2 * 3 - 8 = 16.
    policy, values, scores = 96, 76, 100
    found = update_flops(work)
    assert found["rollout"] == policy
    assert found["scoring"] == policy + values + scores
    assert found["backward"] == 2 * found["forward"] == 2 * (policy + values)


@pytest.mark.parametrize("tied", [True, False])
def test_exported_weights_are_those_a_llama_is_read_from(tied):
    pipeline = pipeline_of(SMALL, RunConfig())
    config = dataclasses.replace(pipeline.config.model, tied=tied)
    params = make_transformer(config, SMALL.vocab).init(jax.random.key(1))
    read = weights.trunk(llama(params, config), config)
    read["embedding_vd"] = read["embedding_vd"] * config.embedding_std
    if tied:
        np.testing.assert_allclose(read.pop("head_vd"), params["embedding_vd"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), read, dict(params))


def test_what_misses_its_target_is_named_with_its_floor():
    row = {
        "work": dataclasses.asdict(SIZES["64"]),
        "ceiling_gflops": {"ours": [130.0, 135.76]},
        "seconds": {"trl": [1.0, 1.0], "ours": [0.25, 0.25], "sweep": [0.05, 0.05]},
        "ratio": {"ours": {"median": 4.0}, "sweep": {"median": 20.0}},
    }
    found = ppo_update_table.misses({"64": row})
    assert found == [[SIZES["64"].name, "one run", "6", "4.00", "0.25", "0.1", "10.0"]]
