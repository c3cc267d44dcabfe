"""Self-consistency of the candidates of a query."""
