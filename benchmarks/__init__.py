"""Benchmarks against the plain way: one file per figure, `python -m benchmarks.NAME`."""
