"""Turn formats: their control tokens, their chat templates, and a parser for rendered conversations.

A rendered conversation is one text with control tokens and image markers. Content that spells one of them is escaped,
so it stays text when the whole is tokenised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from sicog.formats import MARKER
from sicog.records import Role

ESCAPE = "\u2060"  # the word joiner: it has no width and occurs in no control token
ROLES: tuple[str, ...] = get_args(Role)
_CONTROL = re.compile(r"<\|\w+\|>")
_TOKEN_START = "<|"  # start of the control tokens of all known chat models
_TEMPLATE = r"""{%- macro escaped(text) -%}{{- text@ESCAPES@ -}}{%- endmacro -%}
{{- @START@ -}}
{%- if @SYSTEM@ and (not messages or messages[0].role != "system") -%}{{- @SYSTEM@ -}}{%- endif -%}
{%- for message in messages -%}
{%- if message.role not in @ROLES@ -%}{{- raise_exception("unknown role " ~ message.role) -}}{%- endif -%}
{%- set ns = namespace(done="", text="", started=false) -%}
{%- if message.content is string -%}
{%- set ns.text = message.content -%}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == "text" -%}
{%- set ns.text = ns.text ~ part.text -%}
{%- set ns.started = ns.started or part.text != "" -%}
{%- elif part.type == "image" -%}
{%- set ns.done = ns.done ~ escaped(ns.text) ~ @MARKER@ ~ ("" if ns.started else "\n") -%}
{%- set ns.text = "" -%}
{%- else -%}{{- raise_exception("unknown kind of content " ~ part.type) -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- @BEFORE@ ~ message.role ~ @AFTER@ -}}
{%- if message.role == "assistant" -%}
{%- generation -%}{{- ns.done ~ escaped(ns.text) ~ @END@ -}}{%- endgeneration -%}
{%- else -%}
{{- ns.done ~ escaped(ns.text) ~ @END@ -}}
{%- endif -%}
{{- @SUFFIX@ -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- @BEFORE@ ~ "assistant" ~ @AFTER@ -}}{%- endif -%}
"""


class Rendered(str):
    """A conversation as text from `apply_chat_template`. Its control tokens are real control tokens."""


@dataclass(frozen=True)
class TurnFormat:
    """The form of a turn: prefix (with `{role}`), content, end token, suffix. The end token also ends an answer.

    default_system: the system turn added to a conversation without one; None: none. start: the start of a conversation.
    """

    name: str
    prefix: str
    end_token: str
    suffix: str
    default_system: str | None
    start: str = ""

    @property
    def controls(self) -> tuple[str, ...]:
        """The control tokens of the format. The tokenizer must have all of them."""
        return tuple(dict.fromkeys([self.end_token, *_CONTROL.findall(self.start + self.prefix + self.suffix)]))

    @property
    def opening_token(self) -> str:
        """The first control token of a rendered conversation."""
        return _CONTROL.findall(self.start + self.prefix)[0]

    def chat_template(self, spellings: Iterable[str] = ()) -> str:
        """The format as a Transformers chat template. It escapes content that spells a control token.

        spellings: texts that the tokenizer would read as added tokens, such as `<tool_call>`.
        """
        before, after = self.prefix.split("{role}")
        system = self.prefix.format(role="system") + f"{self.default_system}{self.end_token}{self.suffix}"
        values = {
            "ESCAPES": "".join(f" | replace({_jinja_literal(a)}, {_jinja_literal(b)})" for a, b in _escapes(spellings)),
            "START": _jinja_literal(self.start),
            "SYSTEM": _jinja_literal("" if self.default_system is None else system),
            "ROLES": _jinja_literal(ROLES),
            "MARKER": _jinja_literal(MARKER),
            "BEFORE": _jinja_literal(before),
            "AFTER": _jinja_literal(after),
            "END": _jinja_literal(self.end_token),
            "SUFFIX": _jinja_literal(self.suffix),
        }
        return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], _TEMPLATE)

    def read(self, rendered: str) -> Iterator[tuple[Literal["control", "image", "content"], str]]:
        """The pieces of a rendered conversation or a part of one, in order; content is unescaped.

        Raises `ValueError` for a control token at a place where the format never writes it.
        """
        end = 0
        for found in self._control_or_marker.finditer(rendered):
            yield from self._content(rendered[end : found.start()])
            yield ("image" if found[0] == MARKER else "control"), found[0]
            end = found.end()
        yield from self._content(rendered[end:])

    def _content(self, text: str) -> Iterator[tuple[Literal["content"], str]]:
        if stray := next((control for control in self.controls if control in text), None):
            raise ValueError(
                f"the text holds {stray!r} where turn format {self.name!r} writes none; "
                f"give the conversation as messages to apply_chat_template"
            )
        if text:
            yield "content", re.sub(f"{ESCAPE}(.?)", r"\1", text, flags=re.DOTALL)

    @cached_property
    def _control_or_marker(self) -> re.Pattern[str]:
        controls = [self.start, *(self.prefix.format(role=role) for role in ROLES), self.end_token + self.suffix]
        return re.compile("|".join(re.escape(text) for text in [*controls, self.end_token, MARKER] if text))


CHATML = TurnFormat("chatml", "<|im_start|>{role}\n", "<|im_end|>", "\n", "You are a helpful assistant.")
LLAMA3 = TurnFormat(
    "llama3", "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>", "", None, start="<|begin_of_text|>"
)
TURN_FORMATS = {turn_format.name: turn_format for turn_format in (CHATML, LLAMA3)}


def _escapes(spellings: Iterable[str]) -> list[tuple[str, str]]:
    """Replacements in content, in this order. The escape character comes first, so the text can be restored."""
    others = sorted({text for text in spellings if len(text) > 1 and _TOKEN_START not in text} - {MARKER})
    return [(ESCAPE, ESCAPE * 2), *((text, text[0] + ESCAPE + text[1:]) for text in (_TOKEN_START, MARKER, *others))]


def _jinja_literal(value: str | tuple[str, ...]) -> str:
    """A literal of Jinja, in ASCII."""
    return json.dumps(value)
