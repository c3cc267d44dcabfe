"""Seeds: a key for every random choice, made of what the choice is about."""

from __future__ import annotations

import hashlib

import orjson


def stream_key(*parts: str | int) -> int:
    """A 128-bit key from named parts; parts of different types or borders never meet in the same key."""
    return int.from_bytes(hashlib.blake2b(orjson.dumps(parts), digest_size=16).digest(), "little")
