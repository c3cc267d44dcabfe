"""Whole runs: what a recipe says beside its steps, how its steps are started, how far they are, what they will take."""
