"""The parts of an update as calls without arguments, each a compiled program of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.config import split_dynamic
from rlhf_jax.models.blocks import Attention, FeedForward, RMSNorm, project
from rlhf_jax.models.functional import Model, from_nnx
from rlhf_jax.models.transformer import attend, empty_cache
from rlhf_jax.ops.distributions import entropy, log_probs_of
from rlhf_jax.rollout.text import Experience, completion_outputs
from rlhf_jax.train.batches import next_prompts, take
from rlhf_jax.train.experience import make_experience
from rlhf_jax.train.loop import to_numbers
from rlhf_jax.train.policy_gradient import optimizer
from rlhf_jax.train.policy_loss import minibatch_loss
from rlhf_jax.train.scores import score_texts
from rlhf_jax.train.stages import Pipeline
from rlhf_jax.train.state import Frozen, TrainState, apply_gradients, policy_gradient
from rlhf_jax.train.tuning import make_algorithm, make_init
from rlhf_jax.types import Array

Call = Callable[[], Any]
WHOLE = (
    "rollout",
    "prompts",
    "reward",
    "reference",
    "values",
    "experience",
    "forward",
    "gradient",
    "optimizer",
    "host",
    "learn",
    "whole",
)
DIFFERENTIATED = ("attention", "feed_forward", "head")


class Parts:
    """Every part on the arrays that an update gives it."""

    def __init__(self, pipeline: Pipeline, frozen: Frozen):
        self.config, self.model, self.frozen = pipeline.config, pipeline.model, frozen
        self.steps, self.special = make_algorithm(pipeline), pipeline.task.codec.special
        self.prompt_rows = jax.device_put(pipeline.task.train_prompts)
        self.hparams = split_dynamic(self.config)[1]
        init = jax.jit(lambda frozen: make_init(self.config)(self.config, frozen, pipeline.key))
        self.state: TrainState = jax.tree.map(jnp.copy, init(frozen))
        self.texts = jax.jit(self.steps.collect)(self.state, self.prompt_rows, self.hparams)
        self.scores = jax.jit(self.steps.score)(frozen, self.texts)
        self.batch = self.first_minibatch()

    def calls(self) -> dict[str, Call]:
        """All of them, by name; a `gradient` is that of the part before, with its forward pass."""
        found = {name: getattr(self, name)() for name in WHOLE}
        for name in DIFFERENTIATED:
            found[name], found[f"{name} gradient"] = getattr(self, name)()
        return found

    def first_minibatch(self) -> Experience:
        """As many rows as an optimizer step has."""
        algo = policy_gradient(self.config)
        experience = jax.jit(self.make_experience)(self.state, self.scores, self.frozen.reference)
        return take(experience, jnp.arange(algo.batch_size // algo.minibatches))

    def make_experience(self, state: TrainState, scores: Array, reference: Any) -> Experience:
        scored = score_texts(policy_gradient(self.config), self.texts, scores, self.special)
        return make_experience(self.model, self.config, state, scored, reference)[0]

    def rollout(self) -> Call:
        """All of sampling."""
        collect = jax.jit(self.steps.collect)
        return lambda: collect(self.state, self.prompt_rows, self.hparams)

    def prompts(self) -> Call:
        """Choosing the prompts and reading them into the cache."""
        batch, width = self.texts.tokens().shape
        settings, length = self.config.model, self.texts.prompt_tokens.shape[1]

        def read(state: TrainState, rows: Any):
            asked = next_prompts(state, rows, batch, repeats=1)
            cache = empty_cache(settings, batch, width - 1)  # as sampling has it
            window = {"cache": cache, "window": (length - 1, length)}
            return self.model.apply(state.params["policy"], asked.tokens, asked.mask, **window)

        program = jax.jit(read)
        return lambda: program(self.state, self.prompt_rows)

    def reward(self) -> Call:
        """Scores of the texts."""
        score = jax.jit(self.steps.score)
        return lambda: score(self.frozen, self.texts)

    def reference(self) -> Call:
        """Log-probabilities under the reference."""

        def log_probs(reference: Any):
            logits, _ = completion_outputs(
                self.model, {"policy": reference}, self.texts, self.config
            )
            return log_probs_of(logits, self.texts.completion_tokens)

        program = jax.jit(log_probs)
        return lambda: program(self.frozen.reference)

    def values(self) -> Call:
        """Of all completion tokens."""
        program = jax.jit(
            lambda params: completion_outputs(self.model, params, self.texts, self.config)[1]
        )
        return lambda: program(self.state.params)

    def experience(self) -> Call:
        """Reference, values, token rewards and advantages."""
        program = jax.jit(self.make_experience)
        return lambda: program(self.state, self.scores, self.frozen.reference)

    def loss(self, params: Any, batch: Experience, extra: Any):
        return minibatch_loss(self.model, self.config, extra, params, batch)

    def forward(self) -> Call:
        """The loss of a minibatch."""
        program = jax.jit(self.loss)
        return lambda: program(self.state.params, self.batch, self.state.extra)

    def gradient(self) -> Call:
        """The loss of a minibatch and its gradient."""
        program = jax.jit(jax.value_and_grad(self.loss, has_aux=True))
        return lambda: program(self.state.params, self.batch, self.state.extra)

    def optimizer(self) -> Call:
        """One step of Adam on policy and value function, in place."""

        def move(state: TrainState, grads: Any):
            return apply_gradients(state, grads, jnp.zeros(()), optimizer(self.config))[0]

        program = jax.jit(move, donate_argnums=(0,))
        grads = jax.tree.map(lambda x: jnp.full_like(x, 1e-6), self.state.params)
        held = [jax.tree.map(jnp.copy, self.state)]

        def step():
            held[0] = program(held[0], grads)
            return held[0].params

        return step

    def host(self) -> Call:
        """A call that computes nothing: all arguments in, the state passed on, metrics out."""
        same = lambda state, prompts, frozen, hparams: (state, {str(i): 0.0 for i in range(30)})
        program = jax.jit(same, donate_argnums=(0,))
        held = [jax.tree.map(jnp.copy, self.state)]

        def call():
            held[0], metrics = program(held[0], self.prompt_rows, self.frozen, self.hparams)
            return to_numbers(metrics)

        return call

    def learn(self) -> Call:
        """Scoring but for the reward, and all epochs."""
        program = jax.jit(self.steps.learn)
        rest = (self.texts, self.scores, self.frozen, self.hparams)
        return lambda: program(self.state, *rest)

    def whole(self) -> Call:
        """The update as a run does it."""
        program = jax.jit(self.steps.train_step, donate_argnums=(0,))
        held = [jax.tree.map(jnp.copy, self.state)]

        def update():
            held[0], metrics = program(held[0], self.prompt_rows, self.frozen, self.hparams)
            return to_numbers(metrics)

        return update

    @cached_property
    def hidden(self) -> tuple[Array, Array]:
        """What a block is given in learning: states [b, L, D] and the mask."""
        mask = self.batch.rollout.mask()
        x = jax.random.normal(jax.random.key(1), (*mask.shape, self.config.model.width))
        return x, mask

    def block_part(self, part: Model, *more: Any) -> tuple[Call, Call]:
        """`x + part(norm(x))` and its gradient, by parameters and `x`."""
        norm = from_nnx(lambda rngs: RMSNorm(self.config.model.width))
        x, _ = self.hidden
        params = (norm.init(jax.random.key(0)), part.init(jax.random.key(2)))

        def add(params: Any, x: Array):
            out = part.apply(params[1], norm.apply(params[0], x), *more)
            return x + (out[0] if isinstance(out, tuple) else out)

        weigh = lambda params, x, y: jnp.sum(add(params, x) * y)  # any gradient may come from above
        forward, gradient = jax.jit(add), jax.jit(jax.value_and_grad(weigh, argnums=(0, 1)))
        above = jax.random.normal(jax.random.key(3), x.shape)
        return lambda: forward(params, x), lambda: gradient(params, x, above)

    def attention(self) -> tuple[Call, Call]:
        """Of one block: forward, and with its gradient."""
        angles, biases = attend(self.config.model, self.hidden[1], None)
        part = from_nnx(lambda rngs: Attention(self.config.model, rngs))
        return self.block_part(part, angles, biases, None, None)

    def feed_forward(self) -> tuple[Call, Call]:
        """Of one block: forward, and with its gradient."""
        return self.block_part(from_nnx(lambda rngs: FeedForward(self.config.model, rngs)))

    def head(self) -> tuple[Call, Call]:
        """From the states of a minibatch to its mean log-probability and entropy, and back."""
        rollout = self.batch.rollout
        width = rollout.prompt_tokens.shape[1]
        x = self.hidden[0][:, width - 1 : -1]
        head = self.state.params["policy"]["embedding_vd"]

        def loss(head: Array, x: Array):
            logits = project(x, head.T, jnp.dtype(self.config.model.dtype))
            log_probs = log_probs_of(logits, rollout.completion_tokens)
            return jnp.mean(log_probs), jnp.mean(entropy(logits))

        forward = jax.jit(loss)
        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        return lambda: forward(head, x), lambda: gradient(head, x)
