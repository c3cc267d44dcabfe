"""keys.py: every key of every verb has a comment, a type in words and the default that holds."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter

from sicog.config import Config, apply_overrides
from sicog.config.keys import COMMON, Key, as_table, as_text, sections, type_text
from sicog.data.check import CheckConfig
from sicog.evaluation.sampled.suites import SampledConfig
from sicog.lab.arms import LabConfig
from sicog.runs.recipe import RecipeSpec
from sicog.runs.verbs import VERBS

CONFIGS = {verb.config_type() for verb in VERBS.values()} | {CheckConfig, SampledConfig, RecipeSpec, LabConfig}
BY_NAME = sorted(CONFIGS, key=lambda config: f"{config.__module__}.{config.__name__}")


class Inner(Config):
    """What is inside.

    More about it.
    """

    rate: float = Field(default=1e-4, gt=0)
    """How *fast*."""


class Outer(Config):
    """The outermost."""

    workers: int = Field(default=1, ge=1)
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    by_name: dict[str, Inner | None] = {}
    path: Path | None = None
    """Where a `x|y` is, in words that
    take two lines."""
    needed: Literal["a", "b"]
    """Must be given."""


def test_the_keys_of_a_config_and_of_those_within_it():
    outer, inner = sections(Outer)
    assert [key.name for key in outer.keys] == ["needed", "workers", "inner", "several", "by_name", "path"]
    assert outer.keys[0] == Key("needed", "a | b", "required", "Must be given.")
    assert outer.keys[1] == Key("workers", "integer, at least 1", "1", COMMON["workers"])
    assert outer.keys[2] == Key("inner", "mapping", "", "What is inside.")
    assert outer.keys[5].comment == "Where a `x|y` is, in words that take two lines."
    assert inner.places == ("inner", "several[]", "by_name.NAME") and inner.says == "What is inside."
    assert inner.keys == (Key("inner.rate", "number, above 0", "0.0001", "How *fast*."),)


def test_keys_as_text_and_as_a_table():
    text = as_text(sections(Outer), 40)
    assert "  needed  (a | b, required)\n      Must be given.\n  workers = 1  (integer, at least 1)\n" in text
    assert "inner, several[], by_name.NAME: What is\n  inside.\n  inner.rate = 0.0001" in text
    assert max(len(line) for line in text.splitlines() if line.startswith("   ")) <= 40
    table, of_inner = map(as_table, sections(Outer))
    assert "| `path` | path or null | `null` | Where a `x\\|y` is, in words that take two lines. |" in table
    assert of_inner.endswith("| `rate` | number, above 0 | `0.0001` | How \\*fast\\*. |")
    assert "| `needed` | a \\| b | required | Must be given. |" in table


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (tuple[Path, ...], "list of paths"),
        (tuple[float, float], "[number, number]"),
        (bool | None, "true | false or null"),
        (str | dict[str, float], "text or mapping of names to numbers"),
        (dict[str, Any], "mapping of names to anything"),
        (tuple[Annotated[float, Field(ge=-1, le=1)], ...], "list of numbers, -1 to 1"),
    ],
)
def test_a_type_in_words(annotation, says):
    assert type_text(annotation) == says


@pytest.mark.parametrize("config", BY_NAME, ids=lambda config: config.__name__)
def test_every_key_has_a_comment(config):
    for section in sections(config):
        assert section.says.endswith((".", "?")) or ":" in section.says
        for key in section.keys:
            assert key.comment.endswith("."), f"{config.__name__}.{key.name} needs a docstring under its field"


@pytest.mark.parametrize("config", BY_NAME, ids=lambda config: config.__name__)
def test_a_default_that_is_shown_can_be_given(config):
    (outermost, *_) = sections(config)
    for key in outermost.keys:
        field = config.model_fields[key.name]
        if isinstance(field.default, str):
            assert key.default.strip('"') == field.default
        elif key.default not in ("required", ""):
            given = apply_overrides({}, [f"{key.name}={key.default}"], config)[key.name]
            assert TypeAdapter(Annotated[field.annotation, field]).validate_python(given) == field.default


def test_what_is_common_is_used():
    names = {name for config in CONFIGS for s in sections(config) for name in (k.name.split(".")[-1] for k in s.keys)}
    assert COMMON.keys() <= names
