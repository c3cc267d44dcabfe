"""Users' rows: recognise files, read their rows, and store them as mapped tables."""
