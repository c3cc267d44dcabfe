"""Steps 1 and 4: all training stages."""
