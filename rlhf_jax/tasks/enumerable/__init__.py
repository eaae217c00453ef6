"""Tasks whose completions can all be listed, so that the optimum is known."""

from rlhf_jax.tasks.enumerable.task import make_enumerable as make_enumerable
