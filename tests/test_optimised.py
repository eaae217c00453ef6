"""The program as users run it: every other test compiles without XLA's optimisations.

Once with the flags that `runtime.setup` sets, once with those of the report card's workers.
"""

import os
import subprocess
import sys

import pytest

from rlhf_jax.runtime import FUSION_EMITTERS

PROGRAM = """
import os

from rlhf_jax import runtime
from rlhf_jax.config import RunConfig

runtime.setup(RunConfig(device="cpu", compile_cache=False))
for name, value in runtime.CPU_FLAGS.items():
    assert f"--{name}={value}" in os.environ["XLA_FLAGS"]

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import config as schemas
from rlhf_jax.models.actor_critic import make_actor_critic
from rlhf_jax.models.blocks import matmul_transposed, matmul
from rlhf_jax.models.transformer import make_transformer
from rlhf_jax.models.value_heads import init_head
from rlhf_jax.rollout.text import completion_log_probs
from rlhf_jax.train import policy_gradient
from rlhf_jax.train.state import Frozen
from rlhf_jax.types import Sequences, SpecialTokens

VOCAB, SPECIAL = 12, SpecialTokens(pad=0, bos=1, eos=2)
config = schemas.RLHFConfig(
    model=schemas.ModelConfig(
        layers=1, width=32, heads=2, kv_heads=1, ff_width=64, context=32, dtype="float32",
        value_head="shared",  # half the compilation
    ),
    sampling=schemas.SamplingConfig(max_length=8, temperature=0.7),
    algo=schemas.PolicyGradientConfig(updates=2, batch_size=8, epochs=1, minibatches=2),
)
static, hparams = schemas.split_dynamic(config)
model = make_transformer(config.model, VOCAB)._replace(eos=SPECIAL.eos)
keys = jax.random.split(jax.random.key(0))
# Sharper than a fresh model, so that a mistaken temperature or position shows.
trunk = jax.tree.map(lambda x: 2.0 * x, jax.jit(model.init)(keys[0]))
reward = {"trunk": trunk, "head": init_head(keys[1], config.model.width)}
frozen = Frozen(reference=trunk, reward=reward)

lengths = np.array([5, 1, 2, 3, 4, 2, 3, 1])[:, None]
mask = np.arange(5)[None] >= 5 - lengths
tokens = np.random.default_rng(0).integers(3, VOCAB, mask.shape).astype(np.int32)
prompts = Sequences(tokens=jnp.asarray(np.where(mask, tokens, SPECIAL.pad)), mask=jnp.asarray(mask))


def score(frozen, rollout):
    return jnp.sum(rollout.completion_tokens == 5, axis=1, dtype=jnp.float32)


steps = policy_gradient.make_policy_gradient(model, static, special=SPECIAL, score=score)
state = policy_gradient.init(config, frozen, jax.random.key(1))
rollout = jax.jit(steps.collect)(state, prompts, hparams)
forward = lambda rollout: completion_log_probs(model, trunk, rollout, config.sampling)[0]
full = jax.jit(forward)(rollout)
error = jnp.where(rollout.completion_mask, full - rollout.behavior_log_probs, 0.0)
state, metrics = jax.jit(steps.train_step)(state, prompts, frozen, hparams)
assert all(np.isfinite(float(x)) for x in metrics.values()), metrics

for size in (9, 80):
    x = jax.random.normal(keys[0], (2, 3, size, 32))
    y = jax.random.normal(keys[1], (2, 3, 32, size))
    slow = jax.grad(lambda x, y: jnp.sum(jnp.sin(x @ y)), (0, 1))(x, y)
    for product in (matmul, lambda x, y: matmul_transposed(x, jnp.swapaxes(y, 2, 3))):
        fast = jax.jit(jax.grad(lambda x, y: jnp.sum(jnp.sin(product(x, y))), (0, 1)))(x, y)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), fast, slow)

network = make_actor_critic(schemas.NetworkConfig(width=16), (4,), 2)
params, seen = network.init(keys[0]), jax.random.normal(keys[1], (64, 4))
policy, values = jax.jit(network.apply)(params, seen)  # a batch in columns
for i in range(0, 64, 8):
    few, some = network.apply(params, seen[i : i + 8])  # in rows
    np.testing.assert_allclose(policy.logits[i : i + 8], few.logits, atol=1e-5)
    np.testing.assert_allclose(values[i : i + 8], some, atol=1e-5)
print(int(rollout.completion_mask.sum()), float(jnp.abs(error).max()), metrics["val/ratio_first"])
"""


@pytest.mark.parametrize("flags", ["", f"--{FUSION_EMITTERS}=false"])
def test_sampler_and_first_ratio_hold_in_the_optimised_program(flags):
    ours = ("XLA_FLAGS", "RLHF_JAX_RUNTIME")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    environment |= {"XLA_FLAGS": flags} if flags else {}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sampled, error, ratio = map(float, done.stdout.split())
    assert sampled > 8  # else the comparisons below say little
    assert error < 1e-5
    assert abs(ratio - 1.0) < 1e-5
