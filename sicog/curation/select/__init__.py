"""Keep the best candidate of a query, or drop the query."""
