"""Action distributions of policy networks: a choice among a few, or a diagonal Gaussian.

Both have `sample(key)`, `log_prob(actions)`, `entropy()`, `kl(other)` and `mode()`, over any
leading shape. `sample(key)` is `act(noise(key))`; noise for many steps can be drawn at once, and
by a policy of which only shapes are known.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.ops.distributions import entropy, log_probs_of
from rlhf_jax.ops.kl import kl_full
from rlhf_jax.types import Array, Key

LOG_2PI = 1.8378770664093453


class Categorical(NamedTuple):
    """`p_a = exp(logits_a) / sum_b exp(logits_b)`.

    >>> round(float(Categorical(jnp.zeros(4)).entropy()), 4)  # log 4
    1.3863
    """

    logits: Array  # [..., A]

    def noise(self, key: Key, *times: int) -> Array:
        """Gumbel noise [*times, ..., A] for `act`."""
        return jax.random.gumbel(key, (*times, *self.logits.shape), self.logits.dtype)

    def act(self, noise: Array) -> Array:
        """Actions [...] int32: `argmax_a logits_a + noise_a`."""
        return jnp.argmax(self.logits + noise, axis=-1)

    def sample(self, key: Key) -> Array:
        """Actions [...] int32."""
        return self.act(self.noise(key))

    def log_prob(self, actions: Array) -> Array:
        """[...], nats."""
        return log_probs_of(self.logits, actions)

    def entropy(self) -> Array:
        """[...], nats, in [0, log A]."""
        return entropy(self.logits)

    def kl(self, other: Categorical) -> Array:
        """KL(self || other) [...], nats."""
        return kl_full(self.logits, other.logits)

    def mode(self) -> Array:
        """The likeliest action [...]."""
        return jnp.argmax(self.logits, axis=-1)


class Gaussian(NamedTuple):
    """Independent normal entries: `a_i = mean_i + exp(log_std_i) z_i`.

    >>> policy = Gaussian(jnp.zeros(2), jnp.zeros(2))
    >>> round(float(policy.log_prob(jnp.zeros(2))), 4)  # -log(2 pi)
    -1.8379
    """

    mean: Array  # [..., D]
    log_std: Array  # [..., D]

    def noise(self, key: Key, *times: int) -> Array:
        """Standard normal [*times, ..., D] for `act`."""
        return jax.random.normal(key, (*times, *self.mean.shape), self.mean.dtype)

    def act(self, noise: Array) -> Array:
        """Actions [..., D]; not bounded."""
        return self.mean + jnp.exp(self.log_std) * noise

    def sample(self, key: Key) -> Array:
        """Actions [..., D]; not bounded."""
        return self.act(self.noise(key))

    def log_prob(self, actions: Array) -> Array:
        """Log-density [...], nats, summed over the entries."""
        z = (actions - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * jnp.square(z) + self.log_std + 0.5 * LOG_2PI, axis=-1)

    def entropy(self) -> Array:
        """Differential entropy [...], nats, of any sign."""
        return jnp.sum(self.log_std + 0.5 * (1.0 + LOG_2PI), axis=-1)

    def kl(self, other: Gaussian) -> Array:
        """KL(self || other) [...], nats."""
        shift = jnp.square((self.mean - other.mean) * jnp.exp(-other.log_std))
        narrower = self.log_std - other.log_std
        return 0.5 * jnp.sum(jnp.exp(2.0 * narrower) + shift - 1.0 - 2.0 * narrower, axis=-1)

    def mode(self) -> Array:
        """The mean."""
        return self.mean


Policy = Categorical | Gaussian
