"""Objectives beside cross-entropy."""
