"""Checkpoints, metric sinks and run directories."""
