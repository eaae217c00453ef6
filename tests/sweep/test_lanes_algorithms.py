"""A lane of each algorithm that samples takes the steps its own run would take."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import (
    BanditConfig,
    ModelConfig,
    OnlineDPOConfig,
    OptimConfig,
    PolicyGradientConfig,
    RLHFConfig,
    RunConfig,
    SamplingConfig,
    split_dynamic,
)
from rlhf_jax.io.run_dir import RunDir
from rlhf_jax.io.sinks import Sink
from rlhf_jax.sweep.lanes import (
    STREAK,
    Shared,
    make_advance,
    make_first,
    stacked_keys,
    stacked_numbers,
)
from rlhf_jax.sweep.layout import Layout, lane
from rlhf_jax.tasks import make_task
from rlhf_jax.train import reward_model, sft
from rlhf_jax.train.loop import Session
from rlhf_jax.train.pipeline import make_pipeline
from rlhf_jax.train.state import Frozen
from rlhf_jax.train.tuning import make_algorithm, make_init

pytestmark = pytest.mark.slow
change = dataclasses.replace
ONCE = {"updates": 3, "batch_size": 8, "epochs": 1, "minibatches": 1}
ALGORITHMS = {  # one of each way through the code; PPO is in test_chunk
    "grpo": PolicyGradientConfig(
        **ONCE, group_size=4, advantage="grpo", whiten_advantages="none",
        aggregation="sequence_mean", kl_placement="loss", kl_estimator="k3",
    ),
    "reinforce": PolicyGradientConfig(
        **ONCE, surrogate="reinforce", advantage="moving_mean", whiten_advantages="none",
        kl_controller="fixed",
    ),
    "online_dpo": OnlineDPOConfig(updates=3, batch_size=8),
}  # fmt: skip
REWARDS = {"grpo": "reward_model", "online_dpo": "reward_model"}


def config_of(name, seed, rate):
    return RLHFConfig(
        seed=seed,
        task=BanditConfig(num_texts=64, num_pairs=32, letters=4, reward=REWARDS.get(name, "gold")),
        model=ModelConfig(layers=1, width=16, heads=2, kv_heads=1, ff_width=32, context=8),
        sampling=SamplingConfig(max_length=1),
        algo=change(ALGORITHMS[name], name=name),
        optim=OptimConfig(learning_rate=rate),
        run=RunConfig(cache=False),
    )


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    """Two lanes' settings, what they share, and the second one's own run."""
    configs = [config_of(request.param, seed, rate) for seed, rate in ((0, 1e-3), (1, 3e-3))]
    sink = Sink(lambda row: None, lambda failed=False: None)
    session = Session(run_dir=RunDir(tmp_path_factory.mktemp("run")), run=configs[0].run, sink=sink)
    pipeline = make_pipeline(configs[1], make_task(configs[1].task), session)
    key, config = jax.random.key(5), pipeline.config
    trunk = sft.init(pipeline.model, config.sft, key).params
    reward = reward_model.init(trunk, config.model.width, config.reward_model, key).params
    frozen = Frozen(reference=trunk, reward=reward)
    prompts = jax.device_put(pipeline.task.train_prompts)
    step = jax.jit(make_algorithm(pipeline).train_step)
    state, rows = make_init(config)(config, frozen, pipeline.key), []
    for _ in range(3):
        state, metrics = step(state, prompts, frozen, split_dynamic(config)[1])
        rows.append(metrics)
    return configs, pipeline, Shared(frozen=frozen, tables=None), (state, rows)


@pytest.mark.parametrize(  # compiling is what costs: both strategies with one of them
    "made, strategy",
    [("grpo", "map"), ("grpo", "vmap"), ("reinforce", "map"), ("online_dpo", "vmap")],
    indirect=["made"],
)
def test_a_lane_takes_the_steps_of_its_own_run(made, strategy):
    configs, pipeline, shared, (state, rows) = made
    layout = Layout(strategy=strategy, lanes=2, shared=True, rows=3)
    hparams, keys = stacked_numbers(configs), stacked_keys([config.seed for config in configs])
    states = jax.jit(make_first(pipeline, layout))(hparams, shared, keys)
    prompts = jax.device_put(pipeline.task.train_prompts)
    advance = jax.jit(make_advance(pipeline, layout))
    live = jnp.ones(2, bool)
    states, found = advance(states, hparams, shared, prompts, live, jnp.int32(3))
    assert found.keys() == rows[0].keys() | {"val/skipped", STREAK}
    for i, row in enumerate(rows):
        for name, value in row.items():
            np.testing.assert_allclose(found[name][1, i], value, 1e-5, 1e-5, err_msg=name)
    for mine, own in zip(jax.tree.leaves(lane(states.params, 1)), jax.tree.leaves(state.params)):
        np.testing.assert_allclose(mine, own, 1e-5, 1e-5)
    assert not np.allclose(found["objective/scores"][0], found["objective/scores"][1])
