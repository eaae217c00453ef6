"""The counterfactual audit: what every loss would do with one and the same rollout."""

from rlhf_jax.train.audit.batch import AuditBatch, freeze
from rlhf_jax.train.audit.gradients import audit, check_first_step, cosines

__all__ = ["AuditBatch", "audit", "check_first_step", "cosines", "freeze"]
