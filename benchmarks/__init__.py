"""What is measured, side by side with the plain way: one file per figure, `python -m benchmarks.NAME`."""
