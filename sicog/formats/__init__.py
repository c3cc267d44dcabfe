"""Read users' published files into our records, and write them back.

conversations  published files to records, and back
row_keys       the keys of a user's row
json_rows      stream raw rows of JSON
"""

from sicog.formats.conversations import (
    FileSource,
    JsonFile,
    QueryParser,
    RawRow,
    parse_example,
    parse_row,
    read_llava,
    read_queries,
    reads_back,
    tagged_sections,
    to_llava,
    user_turn,
    write_llava,
)
from sicog.formats.row_keys import (
    MARKER,
    Row,
    RowError,
    caption_of,
    ensure_marker,
    first_question,
    first_value,
    image_names,
    other_keys,
)

__all__ = [
    "MARKER",
    "FileSource",
    "JsonFile",
    "QueryParser",
    "RawRow",
    "Row",
    "RowError",
    "caption_of",
    "ensure_marker",
    "first_question",
    "first_value",
    "image_names",
    "other_keys",
    "parse_example",
    "parse_row",
    "read_llava",
    "read_queries",
    "reads_back",
    "tagged_sections",
    "to_llava",
    "user_turn",
    "write_llava",
]
