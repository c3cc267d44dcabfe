"""JSON that is safe inside a <script> element or a script file, with any strings."""

from __future__ import annotations

import json
from typing import Any

import orjson

# Escape `</script>`, `<!--` and line separators of old JavaScript.
_ESCAPES = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))
_SEPARATORS = (("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"))


def script_json(value: Any) -> bytes:
    """Return the value as JSON in UTF-8; nan and infinities become null."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, orjson.JSONEncodeError):  # an integer larger than 64 bits
        data = json.dumps(value, default=str).encode()
    for character, escape in (*_ESCAPES, *_SEPARATORS):
        data = data.replace(character, escape)
    return data
