"""Self-consistency of statements: what candidates state, how many others state it too, and what is kept."""
