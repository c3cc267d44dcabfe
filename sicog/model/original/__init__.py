"""Checkpoints of the original, in LLaVA's layout.

checkpoint  import and export all tensors
config      convert config.json
"""
