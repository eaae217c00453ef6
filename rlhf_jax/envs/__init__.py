"""Environments stepped inside compiled programs: gridworlds, gymnax, probes."""
