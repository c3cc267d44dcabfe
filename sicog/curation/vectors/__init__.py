"""Vectors of texts: encoders, and what is kept on disk."""
