"""The embedded default: a small rendered world with exact ground truth, and a model small enough for a CPU."""
