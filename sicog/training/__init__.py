"""Steps 1 and 4: every training stage."""
