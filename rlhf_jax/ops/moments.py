"""Mean and variance of a stream, updated batch by batch."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.types import Array, record


@record
class Moments:
    """Mean and variance of everything seen so far; a fresh one is mean 0 and variance 1."""

    mean: Array  # [...]
    var: Array  # [...], biased
    count: Array  # []

    @staticmethod
    def fresh(shape: tuple[int, ...] = ()) -> Moments:
        """With a weight of almost nothing, so that the first batch takes over."""
        return Moments(mean=jnp.zeros(shape), var=jnp.ones(shape), count=jnp.asarray(1e-4))

    def seen(self, batch: Array) -> Moments:
        """After a batch [N, ...]: `mean += d n / m` with `d` the batch's mean less ours.

        Source: Chan, Golub and LeVeque 1979, Eq. 1.5b, as in `RunningMeanStd` of OpenAI baselines.

        >>> moments = Moments.fresh().seen(jnp.array([1.0, 3.0])).seen(jnp.array([5.0, 7.0]))
        >>> round(float(moments.mean), 2), round(float(moments.var), 2)
        (4.0, 5.0)
        """
        size = jnp.asarray(batch.shape[0], self.count.dtype)
        total = self.count + size
        delta = jnp.mean(batch, axis=0) - self.mean
        squares = self.var * self.count + jnp.var(batch, axis=0) * size
        squares = squares + jnp.square(delta) * self.count * size / total
        return Moments(mean=self.mean + delta * size / total, var=squares / total, count=total)

    def standardize(self, x: Array) -> Array:
        """`(x - mean) / sqrt(var + 1e-8)`."""
        mean, var = (jnp.broadcast_to(part, x.shape) for part in (self.mean, self.var))
        return (x - mean) / jnp.sqrt(var + 1e-8)

    def scale(self, x: Array) -> Array:
        """`x / sqrt(var + 1e-8)`; the sign stays, as is right for rewards."""
        return x / jnp.sqrt(self.var + 1e-8)
