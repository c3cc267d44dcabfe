"""Users' rows: what a path holds, and its rows as a mapped table."""
