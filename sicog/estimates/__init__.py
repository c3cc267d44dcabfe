"""Plans of runs before they start: memory, time and disk, and the reasons to refuse a start."""
