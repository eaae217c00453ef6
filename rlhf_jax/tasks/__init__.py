"""Text tasks: prompts, texts, preference pairs and rewards."""

from __future__ import annotations

from rlhf_jax.config import ConfigError, EnumerableConfig, TaskConfig
from rlhf_jax.tasks.protocol import Task


def make_task(config: TaskConfig) -> Task:
    """Builds the task of a config; each is imported only when asked for.

    Raises:
      ConfigError: settings that cannot work.
    """
    if config.name == "reviews":
        from rlhf_jax.tasks.reviews import make_reviews as make
    elif config.name == "imdb":
        from rlhf_jax.tasks.imdb import make_imdb as make
    elif config.name == "jsonl":
        from rlhf_jax.tasks.jsonl import make_jsonl as make
    elif config.name == "automaton":
        from rlhf_jax.tasks.automaton import make_automaton as make
    elif isinstance(config, EnumerableConfig):
        from rlhf_jax.tasks.enumerable import make_enumerable as make
    else:
        raise ConfigError("task.name", config.name, "is not a task there is")
    return make(config)  # pyright: ignore[reportArgumentType]
