"""Attention, loss head and the choice among kernels."""
