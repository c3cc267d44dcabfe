"""The keys of a user's row: images, turns, question. docs/formats.md lists them for users.

Turns are under `conversations` (LLaVA) or `messages` (ShareGPT, TRL; contents are texts or lists of parts). A row with
neither has `question` and `answer`, or an image with its caption under `text` (an image folder of `datasets`).
In a human turn `<image>` marks an image; in an assistant turn it is text. Videos are not supported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

MARKER = "<image>"
VIDEO_MARKER = "<video>"
ROW_KEYS = frozenset({"id", "image", "images", "conversations", "messages"})
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TURNS = ("conversations", "messages")
_KEYS_SHOWN = 8
Row = dict[str, Any]


class RowError(ValueError):
    """A row that cannot be used; `reason` is a snake_case word for the manifest."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def first_value(row: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first of these keys that has one, else None.

    A key with null or a list of nulls counts as absent, because `Dataset.to_json` gives every row the keys of all rows.
    """
    return next((row[key] for key in keys if _has_value(row.get(key))), None)


def _has_value(value: Any) -> bool:
    return any(item is not None for item in value) if isinstance(value, list) else value is not None


def image_names(row: Row) -> tuple[str, ...]:
    """The row's image paths. Raises `RowError`.

    They come from the first of `image` or `images` (a text or a list of texts), `file_name` (an image folder of
    `datasets`), or the image parts of its messages. Videos are refused.
    """
    if row.get("video") or row.get("videos"):
        raise RowError("video", "the row has a video, which is not supported")
    value = first_value(row, "image", "images")
    if value is None:
        value = row["file_name"] if _file_name_is_image(row) else list(_named_in_turns(row))
    names = [name for name in value if name is not None] if isinstance(value, list) else [value]
    if not all(isinstance(n, str) and n for n in names):
        raise RowError("malformed_image", f"image must be a path or a list of paths, got {value!r:.100}")
    return tuple(names)


def turns_of(row: Row, *, required: bool = True) -> list[tuple[str, str]]:
    """(role, text) of each turn, with image markers. Raises `RowError`, also if required turns are missing.

    A question or caption in its own column gets all images of the row, in front.
    """
    turns = first_value(row, *_TURNS)
    if turns is None:
        turns = _turns_from_columns(row, required)
    if not required and turns is None:
        return []
    if not isinstance(turns, list) or not turns:
        raise RowError("no_turns", _no_turns(row))
    found = []
    for number, turn in enumerate(turns, 1):
        role = first_value(turn, "from", "role") if isinstance(turn, Mapping) else None
        text = first_value(turn, "value", "content") if isinstance(turn, Mapping) else None
        if isinstance(role, str) and role in ROLES and is_parts(text):
            text = joined_parts(text, ROLES[role], f"turn {number}")
        if not isinstance(role, str) or role not in ROLES or not isinstance(text, str):
            raise RowError(
                "malformed_turn",
                f"turn {number} needs from (human or gpt) and value (a text), or role and content, got {turn!r:.100}",
            )
        if ROLES[role] == "user" and VIDEO_MARKER in text:
            raise RowError("video", f"turn {number} holds {VIDEO_MARKER}, which is not supported")
        found.append((ROLES[role], text))
    # Some published rows start with a gpt turn. Like the original, we leave it out.
    return found[1:] if found[0][0] == "assistant" else found


def first_question(row: Row) -> str:
    """The first human turn without its image markers, or "".

    Raises `RowError` unless the turn has no marker or one for each image.
    """
    text = next((text for role, text in turns_of(row, required=False) if role == "user"), "")
    check_markers(text.count(MARKER) or len(image_names(row)), len(image_names(row)), "first human turn")
    return text.replace(MARKER, "").strip()


def caption_of(row: Row) -> str:
    """The caption that a teacher rewrites: `caption`, or `text` of an image folder of `datasets`.

    Raises `RowError`."""
    caption = first_value(row, "caption", "text")
    if not isinstance(caption, str) or not caption.strip():
        raise RowError("no_caption", f"the teacher needs a text under `caption`, got {caption!r:.100}")
    return caption.strip()


def check_markers(markers: int, n_images: int, where: str) -> None:
    """Raise `RowError` unless every image has one marker."""
    if markers != n_images:
        raise RowError("marker_count", f"{n_images} images but {markers} {MARKER} markers in the {where}")


def ensure_marker(row: Row) -> Row:
    """Add the image marker to the first human turn if the row has images and no marker."""
    key = next((key for key in _TURNS if first_value(row, key) is not None), None)
    turns = row[key] if key else None
    if key is None or not isinstance(turns, list) or not image_names(row):
        return row
    human = [i for i, turn in enumerate(turns) if _is_of_user(turn)]
    if not human or any(MARKER in _raw_text(turns[i]) for i in human):
        return row
    first = turns[human[0]]
    text_key = "value" if first_value(first, "value") is not None or "content" not in first else "content"
    text = first.get(text_key, "")
    if is_parts(text):
        text = joined_parts(text, "user", "the first human turn")
    if not isinstance(text, str):
        return row  # the parser refuses it
    marked = {**first, text_key: MARKER * len(image_names(row)) + "\n" + text}
    return {**row, key: [marked if i == human[0] else turn for i, turn in enumerate(turns)]}


def other_keys(row: Row, *used: str) -> dict[str, Any]:
    """The `extra` of a record: keys of the row that no field holds, without those named."""
    read = {"file_name"} if first_value(row, "image", "images") is None and _file_name_is_image(row) else set()
    return {k: v for k, v in row.items() if k not in ROW_KEYS and k not in used and k not in read}


def turn_columns(row: Row) -> tuple[str, ...]:
    """The columns that `turns_of` builds the turns of a training row from; empty if the row has turns."""
    if first_value(row, *_TURNS) is not None:
        return ()
    if first_value(row, "question") is not None:
        return ("question", "answer")
    return ("text",) if first_value(row, "text") is not None and image_names(row) else ()


def is_parts(content: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether a message's content is a list of parts, as in TRL and chat templates."""
    return isinstance(content, list) and bool(content) and all(isinstance(part, Mapping) for part in content)


def joined_parts(parts: Sequence[Mapping[str, Any]], role: str, where: str) -> str:
    """The text of a message's parts, with a marker for each image. Raises `RowError` for other parts."""
    return "".join(_part(part, role, where) for part in parts)


def images_of_parts(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The images named in the parts: under `image`, `path` or `url`, or as `image_url`."""
    found = []
    for part in filter(_is_image, parts):
        value = first_value(part, "image", "path", "url", "image_url")
        value = first_value(value, "url", "path") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            found.append(value)
    return found


def _part(part: Mapping[str, Any], role: str, where: str) -> str:
    if _is_image(part):
        if role == "assistant":
            raise RowError("malformed_turn", f"{where} is an answer with an image part; answers must be texts")
        return MARKER
    if part.get("type") in ("video", "video_url"):
        raise RowError("video", f"{where} has a video, which is not supported")
    text = part.get("text")
    if part.get("type") not in ("text", None) or not isinstance(text, str | None):
        raise RowError(
            "malformed_turn", f"{where}: a part must have type text (with a text) or image, got {part!r:.100}"
        )
    return text or ""


def _is_image(part: Mapping[str, Any]) -> bool:
    return part.get("type") in ("image", "image_url")


def _is_of_user(turn: Any) -> bool:
    return isinstance(turn, Mapping) and ROLES.get(str(first_value(turn, "from", "role"))) == "user"


def _raw_text(turn: Mapping[str, Any]) -> str:
    """A turn's text for a search for markers, even if the turn is invalid."""
    content = first_value(turn, "value", "content")
    return MARKER if is_parts(content) and any(map(_is_image, content)) else str(content)


def _named_in_turns(row: Row) -> Sequence[str]:
    turns = first_value(row, *_TURNS)
    contents = [first_value(turn, "value", "content") for turn in turns if _is_of_user(turn)] if is_parts(turns) else []
    return [name for content in contents if is_parts(content) for name in images_of_parts(content)]


def _file_name_is_image(row: Row) -> bool:
    """Whether `file_name` names an image. It does not in a row whose turns show no image."""
    if not isinstance(row.get("file_name"), str):
        return False
    turns = first_value(row, *_TURNS)
    return turns is None or (is_parts(turns) and any(MARKER in _raw_text(t) for t in turns if _is_of_user(t)))


def _turns_from_columns(row: Row, required: bool) -> Any:
    question, answer = row.get("question"), row.get("answer")
    if first_value(row, "question") is None and required and "text" in turn_columns(row):
        question, answer = "", row["text"]
    if question is None or (required and answer is None):
        return None
    for name, value in (("question", question), ("answer", answer)):
        if value is not None and not isinstance(value, str):
            raise RowError("malformed_turn", f"{name} must be a text, got {value!r:.100}")
    markers = "" if MARKER in question else MARKER * len(image_names(row))
    asked = {"from": "human", "value": markers + ("\n" if markers else "") + question}
    return [asked] if answer is None or not required else [asked, {"from": "gpt", "value": answer}]


def _no_turns(row: Row) -> str:
    known = "'conversations' or 'messages' (a list), or 'question' and 'answer' (texts)"
    keys = ", ".join(list(map(str, row))[:_KEYS_SHOWN]) + (", ..." if len(row) > _KEYS_SHOWN else "")
    return f"the row has no list of turns under {known}; its keys are {keys or 'none'}"
