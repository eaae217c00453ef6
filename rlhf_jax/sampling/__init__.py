"""Prefill, cached decoding and filters."""
