"""Benchmarks: what the README states, measured again by one command each."""
