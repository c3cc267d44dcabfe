"""Accuracy against the number of samples."""
