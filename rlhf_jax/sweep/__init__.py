"""Sweeps: the jobs of a multirun as lanes of few compiled programs."""
