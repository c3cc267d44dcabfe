"""Ways to start the steps of a run."""
