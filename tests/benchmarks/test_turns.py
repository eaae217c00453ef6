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
from benchmarks.ppo_update_work import SIZES, Work, forward_flops, update_flops
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
    """XLA counts whole rows of attention, and the few in a hundred that are no matrix products."""
    work = dataclasses.replace(SMALL, width=128, ff_width=512, heads=4, kv_heads=2)
    pipeline = pipeline_of(work, RunConfig())
    params = jax.eval_shape(pipeline.model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((work.episodes, work.tokens), jnp.int32)
    mask = jax.ShapeDtypeStruct(tokens.shape, bool)
    apply = lambda params, tokens, mask: pipeline.model.apply(params, tokens, mask).logits
    found = jax.jit(apply).lower(params, tokens, mask).cost_analysis()["flops"]
    counted = forward_flops(work, logits=work.tokens, sequences=work.episodes)
    assert counted < found < 1.1 * counted


def test_floors_of_the_design():
    """Known from the design of the project, at 400 GFLOP/s."""
    seconds = [update_flops(work)["whole"] / 400e9 for work in SIZES.values()]
    np.testing.assert_allclose(seconds, [0.039, 0.309, 1.875, 9.885], rtol=0.01)


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
        "gflop": 10.0,
        "ceiling_gflops": {"ours": 100.0},
        "seconds": {"trl": [1.0, 1.0], "ours": [0.25, 0.25], "sweep": [0.05, 0.05]},
        "ratio": {"ours": {"median": 4.0}, "sweep": {"median": 20.0}},
    }
    found = ppo_update_table.misses({"64": row})
    assert found == [[SIZES["64"].name, "one run", "6", "4.00", "0.25", "0.1", "10.0"]]
