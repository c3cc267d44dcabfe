"""Near-duplicates, and rows that overlap with benchmarks."""
