"""The default task: short film reviews from a hand-written grammar with a known gold reward."""

from rlhf_jax.tasks.reviews.task import make_reviews

__all__ = ["make_reviews"]
