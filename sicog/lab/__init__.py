"""The bench of scorers: try another way to choose among candidates on a finished mini run, in seconds."""
