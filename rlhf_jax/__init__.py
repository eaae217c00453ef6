"""rlhf_jax: settle questions about PPO and RLHF with pure, compiled JAX programs."""

__version__ = "0.1.0"
