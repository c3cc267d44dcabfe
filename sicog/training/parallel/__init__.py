"""Distribute one training over several processes."""
