"""Every example row of docs/formats.md is read by the reader it is shown for, and `sicog data check` knows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sicog.annotation.revise import cot_example, short_example
from sicog.annotation.teacher import CaptionRowParser
from sicog.data.preferences import parse_pair
from sicog.data.rows.row_kinds import CANDIDATES, CAPTIONS, EXAMPLES, IMAGES, PAIRS, QUESTIONS, kind_of
from sicog.formats import QueryParser, Row, parse_example
from sicog.generation.original_files import ImportCandidatesConfig, _Parser
from sicog.records import Record

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def sections() -> list[tuple[str, Row]]:
    """(heading, row) of each example on the page."""
    parts = re.split(r"^## (.*)\n", PAGE.read_text(), flags=re.MULTILINE)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    found = [(name, re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)) for name, text in pairs]
    return [(name, json.loads(block)) for name, blocks in found for block in blocks]


def parsed(section: str, row: Row) -> list[Record]:
    """What the steps of this section make of a row."""
    row_id = str(row.get("id", 0))
    if section == "Candidates to import":
        config = ImportCandidatesConfig(input=Path("x"), out_dir=Path("y"), task="reasoning")
        return [_Parser(config)(row, row_id)]
    return {
        "Rows to train on": lambda: [parse_example(row, row_id)],
        "Captions to annotate": lambda: [CaptionRowParser(False)(row, row_id)],
        "Reasoning rows to annotate": lambda: [cot_example(row, row_id), short_example(row, row_id)],
        "Unlabelled images": lambda: [QueryParser("captioning")(row, row_id)],
        "Unlabelled questions": lambda: [QueryParser("reasoning")(row, row_id)],
        "Preference pairs": lambda: [parse_pair(row, row_id)],
    }[section]()


KINDS = {
    "Rows to train on": EXAMPLES,
    "Captions to annotate": CAPTIONS,
    "Reasoning rows to annotate": EXAMPLES,
    "Unlabelled images": IMAGES,
    "Unlabelled questions": QUESTIONS,
    "Preference pairs": PAIRS,
    "Candidates to import": CANDIDATES,
}


def test_the_page_shows_every_input() -> None:
    assert {name for name, _ in sections()} == set(KINDS) and len(sections()) == 13


@pytest.mark.parametrize(("section", "row"), sections(), ids=lambda value: value if isinstance(value, str) else "")
def test_an_example_row_is_read(section: str, row: Row, tmp_path: Path) -> None:
    for record in parsed(section, row):
        query = getattr(record, "query", record)
        assert query.images == ("a.png",)
    assert "bus" in str(parsed(section, row)) or section == "Unlabelled images"
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    assert kind_of([tmp_path / "rows.json"]) is KINDS[section]


def test_all_forms_of_a_section_say_the_same() -> None:
    for section, n in (("Rows to train on", 3), ("Unlabelled questions", 2), ("Preference pairs", 3)):
        records = [parsed(section, row)[0] for name, row in sections() if name == section][:n]
        first, *others = [record.model_dump(exclude={"id"}) for record in records]
        assert others == [first] * (n - 1)
