"""Step 3, curate: self-consistency keeps the best candidate or drops the row."""
