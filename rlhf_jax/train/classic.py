"""PPO of a policy network on environments: play, estimate advantages, epochs of minibatches.

The losses and the estimator are those of the language-model PPO (`train/policy_gradient.py`); the
records here are [T, B] and an episode may end, or be cut short, anywhere. All of one update is one
pure function, so seeds and every traced number are lanes under `vmap`.

Source: Schulman et al. 2017, arXiv:1707.06347; the details are those of Huang et al. 2022, "The 37
Implementation Details of Proximal Policy Optimization".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.custom_batching import sequential_vmap

from rlhf_jax.config import ClassicConfig, ClassicPPOConfig, merge_dynamic
from rlhf_jax.envs.make import make_env
from rlhf_jax.envs.protocol import Box, Environment
from rlhf_jax.models.actor_critic import make_actor_critic
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.advantages import gae
from rlhf_jax.ops.kl import schulman_controller
from rlhf_jax.ops.permutation import permuted
from rlhf_jax.optim import learning_rate, make_optimizer, with_schedule_of
from rlhf_jax.rollout.envs import Play, Trajectory, as_seen, begin, episode_metrics, rollout
from rlhf_jax.train.batches import minibatches
from rlhf_jax.train.classic_exact import exact_metrics, optimum, tables_of
from rlhf_jax.train.classic_loss import Steps, minibatch_loss, whitened
from rlhf_jax.train.state import TrainState, apply_gradients, init_state, stream, where
from rlhf_jax.types import Array, Key, Metrics, Params, record


@record
class ClassicState:
    """Everything a run needs to go on exactly where it stood."""

    train: TrainState
    play: Play
    best: Array  # [], exact return of the best policy; 0 where it is not known


class Classic(NamedTuple):
    """Pure functions of the traced numbers `hparams`, the seed among them; `vmap` any of them."""

    init: Callable[[dict[str, Any]], ClassicState]
    update: Callable[[ClassicState, dict[str, Any]], tuple[ClassicState, Metrics]]
    # (policy [S, A], learnt values [S]) of a finite environment
    look: Callable[[ClassicState, dict[str, Any]], tuple[Array, Array]]


def make_classic(static: ClassicConfig) -> Classic:
    """PPO of `static`, the part of the settings that is compiled in."""
    model = make_model(static, make_env(static.env))

    def setup(hparams: dict[str, Any]) -> tuple[ClassicConfig, Environment]:
        config = merge_dynamic(static, hparams)
        return config, make_env(config.env)

    def init(hparams: dict[str, Any]) -> ClassicState:
        config, env = setup(hparams)
        key, ppo = jax.random.key(config.seed), config.ppo
        moving = {"penalty_coef": ppo.penalty_coef, "entropy_coef": ppo.entropy_coef}
        extra = {k: jnp.asarray(v, jnp.float32) for k, v in moving.items()}
        params = model.init(stream(key, "networks"))
        train = init_state(params, optimizer(config), key, **extra)
        best = jnp.zeros(()) if env.mdp is None else optimum(env, ppo)
        play = begin(env, ppo.num_envs, stream(key, "begin"))
        return ClassicState(train=train, play=play, best=best)

    def learnt(hparams: dict[str, Any], train: TrainState, play: Play, seen: Trajectory):
        return learn(merge_dynamic(static, hparams), model, train, play, seen)

    # Lanes play side by side, which costs little more than one. On a CPU they learn one after the
    # other: what a minibatch needs then stays in the cache of the core.
    apart = sequential_vmap(learnt) if jax.default_backend() == "cpu" else learnt

    def update(state: ClassicState, hparams: dict[str, Any]) -> tuple[ClassicState, Metrics]:
        config, env = setup(hparams)
        return one_update(config, env, model, state, partial(apart, hparams))

    def look(state: ClassicState, hparams: dict[str, Any]) -> tuple[Array, Array]:
        config, env = setup(hparams)
        return tables_of(env, model, config.ppo, state.train.params, state.play)

    return Classic(init, update, look)


def make_model(static: ClassicConfig, env: Environment) -> Model:
    """The networks for an environment."""
    box = isinstance(env.actions, Box)
    actions = env.actions.shape[0] if isinstance(env.actions, Box) else env.actions.n
    return make_actor_critic(static.network, env.observation_shape, actions, box=box)


def optimizer(config: ClassicConfig) -> optax.GradientTransformation:
    """The optimizer of a whole run, over all parameters as one vector.

    They are few and small, and each leaf of its own would cost the start of a dozen operations.
    """
    each = config.ppo.epochs * config.ppo.minibatches
    tx = make_optimizer(config.optim, config.ppo.updates * each, each)
    return tx if config.optim.value_rate_factor is not None else optax.flatten(tx)


def one_update(
    config: ClassicConfig,
    env: Environment,
    model: Model,
    state: ClassicState,
    learn: Callable[[TrainState, Play, Trajectory], tuple[TrainState, Metrics]],
) -> tuple[ClassicState, Metrics]:
    """Plays, learns and tells how it went."""
    ppo, train = config.ppo, state.train
    key = stream(train.key, "rollout", train.update)
    play, seen = rollout(env, model, ppo, train.params, state.play, key)
    train, metrics = learn(annealed(ppo, train), play, seen)
    metrics |= episode_metrics(seen)
    train = dataclasses.replace(train, update=train.update + 1)
    after = ClassicState(train=train, play=play, best=state.best)
    if env.mdp is not None:
        policy, learnt = tables_of(env, model, ppo, train.params, play)
        metrics |= exact_metrics(ppo, env, policy, learnt, state.best)
    metrics["episode"] = train.update * ppo.batch_size  # environment steps, as on every x axis
    return after, metrics


def annealed(ppo: ClassicPPOConfig, train: TrainState) -> TrainState:
    """The state with the entropy coefficient of this update."""
    if ppo.anneal_entropy is None:
        return train
    done = train.update.astype(jnp.float32) / (ppo.anneal_entropy * ppo.updates)
    left = jnp.maximum(1.0 - done, 0.0)
    return dataclasses.replace(train, extra=train.extra | {"entropy_coef": ppo.entropy_coef * left})


def estimate(
    model: Model,
    ppo: ClassicPPOConfig,
    params: Params,
    seen: Trajectory,
    play: Play,
    *,
    moved: bool = False,
) -> tuple[Array, Array, Array]:
    """Values, advantages and returns [T, B], with the value function of `params`.

    Those are the parameters that played, whose values the rollout has kept, unless they have
    `moved` since.

    Where an episode was cut short, the reward takes in `gamma V` of the state it had reached: the
    discount after it is 0, as the next row is of another episode.
    """
    value = lambda x: model.apply(params, x)[1]
    values = value(seen.observations) if moved else seen.values
    last = value(as_seen(ppo, play.seen, play.observation))
    rewards, ended = seen.rewards, seen.terminated | seen.truncated
    if ppo.bootstrap_truncated:
        assert seen.final_observations is not None
        rest = ppo.gamma * value(seen.final_observations)
        rewards = rewards + jnp.where(seen.truncated, rest, 0.0)
    discounts = ppo.gamma * (1.0 - ended.astype(jnp.float32))
    following = jnp.concatenate([values, last[None]])
    over_time = lambda r, d, v: gae(r, d, v, gae_lambda=ppo.gae_lambda)
    advantages = jax.vmap(over_time, in_axes=1, out_axes=1)(rewards, discounts, following)
    return values, advantages, advantages + values


def steps_of(
    model: Model,
    ppo: ClassicPPOConfig,
    params: Params,
    seen: Trajectory,
    play: Play,
    *,
    moved: bool = False,
) -> Steps:
    """All steps of a rollout as one batch [T B]; see `estimate`."""
    found = estimate(model, ppo, params, seen, play, moved=moved)
    _, advantages, returns = lax.stop_gradient(found)
    if ppo.whiten_advantages == "batch":
        advantages = whitened(ppo, advantages)
    steps = Steps(
        observations=seen.observations,
        actions=seen.actions,
        behavior_log_probs=seen.behavior_log_probs,
        behavior=seen.behavior,
        behavior_values=seen.values,
        advantages=advantages,
        returns=returns,
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)


def learn(
    config: ClassicConfig, model: Model, train: TrainState, play: Play, seen: Trajectory
) -> tuple[TrainState, Metrics]:
    """K epochs over freshly shuffled minibatches; metrics are means over all of them."""
    ppo = config.ppo
    first = steps_of(model, ppo, train.params, seen, play)

    def on_minibatch(carry: tuple[TrainState, Array], steps: Steps):
        return minibatch_step(config, model, carry, steps)

    def on_epoch(carry: tuple[TrainState, Array], epoch: Array):
        state = carry[0]
        again = ppo.recompute_advantages
        steps = steps_of(model, ppo, state.params, seen, play, moved=True) if again else first
        key = stream(state.key, "minibatches", state.update * ppo.epochs + epoch)
        return lax.scan(on_minibatch, carry, minibatches(steps, key, ppo.minibatches, unsorted))

    start = (train, jnp.zeros((), bool))
    (after, _), tracked = lax.scan(on_epoch, start, jnp.arange(ppo.epochs))
    metrics = jax.tree.map(jnp.mean, tracked)
    metrics["val/ratio_max"] = jnp.max(tracked["val/ratio_max"])
    metrics["val/ratio_first_error"] = tracked["val/ratio_error"][0, 0]
    del metrics["val/ratio_error"]
    each = ppo.epochs * ppo.minibatches
    metrics["lr"] = learning_rate(config.optim, train.update * each, ppo.updates * each, each)
    spread = jnp.var(first.returns)
    unexplained = jnp.var(first.returns - first.behavior_values)
    metrics["val/explained_variance"] = 1.0 - unexplained / jnp.maximum(spread, 1e-8)
    if ppo.surrogate == "adaptive_kl_penalty":
        after = move_penalty(ppo, model, after, first)
    return after, metrics


def unsorted(key: Key, size: int) -> Array:
    """A random order; a sort of random numbers would take a quarter of the whole update."""
    return permuted(key, jnp.arange(size, dtype=jnp.int32), size)


def minibatch_step(
    config: ClassicConfig, model: Model, carry: tuple[TrainState, Array], steps: Steps
) -> tuple[tuple[TrainState, Array], Metrics]:
    """One optimizer step, unless the policy has moved too far; `carry` says whether it has."""
    state, stopped = carry
    loss_fn = lambda params: minibatch_loss(model, config.ppo, state.extra, params, steps)
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    after, norm = apply_gradients(state, grads, loss, optimizer(config))
    metrics["grad_norm"] = norm
    if config.ppo.target_kl is None:
        return (after, stopped), metrics
    stopped = stopped | (metrics["policy/approxkl_avg"] > 1.5 * config.ppo.target_kl)
    as_before = with_schedule_of(state.opt_state, after.opt_state)
    before = dataclasses.replace(state, opt_state=as_before)
    metrics["val/left_out"] = stopped.astype(jnp.float32)
    return (where(stopped, before, after), stopped), metrics


def move_penalty(
    ppo: ClassicPPOConfig, model: Model, state: TrainState, steps: Steps
) -> TrainState:
    """The penalty for the next update, by the KL of this one."""
    policy, _ = model.apply(state.params, steps.observations)
    kl = jnp.mean(steps.behavior.kl(policy))
    moved = schulman_controller(state.extra["penalty_coef"], kl, target=ppo.penalty_target)
    extra = state.extra | {"penalty_coef": jnp.maximum(moved, 1e-6)}
    return dataclasses.replace(state, extra=extra)
