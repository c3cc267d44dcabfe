"""Objectives beside cross-entropy.

dpo        direct preference optimisation
reference  reference log-probabilities, computed once before training
"""
