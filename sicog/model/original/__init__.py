"""Checkpoints of the original, in LLaVA's layout."""
