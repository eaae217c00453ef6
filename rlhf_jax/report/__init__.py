"""From records on disk to tables and plots; never imports jax."""
