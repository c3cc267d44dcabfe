"""Convert Hugging Face messages (role and content, content with parts) to turns and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sicog.formats import user_turn
from sicog.model.turn_formats import ROLES
from sicog.records import Turn

_IMAGE_KEYS = ("image", "path", "url", "base64")


@dataclass(frozen=True)
class Conversation:
    """Turns and their images, in order. An image part without an image gives None."""

    turns: tuple[Turn, ...]
    images: tuple[Any, ...]


def read_conversations(value: Any) -> tuple[list[Conversation], bool]:
    """Read one conversation or a list of them; also returns whether it was a list of conversations.

    Raises `ValueError` with the number of the message for an invalid message, role or part.
    """
    if not _is_list(value) or not value:
        raise ValueError(f"a conversation must be a list of messages with role and content, got {value!r:.100}")
    many = all(map(_is_list, value))
    return [_conversation(messages) for messages in (value if many else [value])], many


def as_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as messages with parts, for a chat template."""
    return [{"role": turn.role, "content": _parts(turn)} for turn in turns]


def _parts(turn: Turn) -> list[dict[str, str]]:
    cuts = [0, *turn.images_at, len(turn.text)]
    parts = []
    for k, (start, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
        parts += [{"type": "image"}] if k else []
        parts += [{"type": "text", "text": turn.text[start:end]}]
    return parts


def _conversation(messages: Sequence[Any]) -> Conversation:
    turns, images = [], []
    for number, message in enumerate(messages, 1):
        where = f"message {number}"
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise ValueError(f"{where} needs a role ({', '.join(ROLES)}) and a content, got {message!r:.100}")
        content = message.get("content")
        pieces, found = [content] if isinstance(content, str) else [""], []
        for part in [] if isinstance(content, str) else _content_parts(content, where):
            if part.get("type") == "text" and isinstance(part.get("text"), str):
                pieces[-1] += part["text"]
            elif part.get("type") in ("image", "image_url"):
                found.append(_image(part))
                pieces.append("")
            else:
                raise ValueError(f"{where}: a part of the content must be a text or an image, got {dict(part)!r:.100}")
        if message["role"] == "user":
            turns.append(user_turn(pieces))
        elif found:
            raise ValueError(f"{where}: images must be in user messages, not in a message of role {message['role']!r}")
        else:
            turns.append(Turn(role=message["role"], text=pieces[0]))
        images += found
    return Conversation(tuple(turns), tuple(images))


def _content_parts(content: Any, where: str) -> Sequence[Mapping[str, Any]]:
    if not _is_list(content) or not all(isinstance(part, Mapping) for part in content):
        raise ValueError(f"{where}: content must be a text or a list of parts, got {content!r:.100}")
    parts: Sequence[Mapping[str, Any]] = content
    return parts


def _image(part: Mapping[str, Any]) -> Any:
    """The image in a part. OpenAI's parts nest it one level deeper."""
    nested = part.get("image_url")
    if isinstance(nested, Mapping):
        return nested.get("url")
    return next((part[key] for key in _IMAGE_KEYS if part.get(key) is not None), None)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
