"""Kept rows to training sets."""
