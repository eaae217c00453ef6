"""Losses over arrays, per token or per example; the caller reduces."""
