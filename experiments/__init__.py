"""Entry points: one short Hydra program a job."""
