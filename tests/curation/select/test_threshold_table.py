"""`sicog thresholds`: its table against `select` at each cut, what it prints, and what it says of rows never kept."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sicog.cli import app
from sicog.curation.select.select import SelectConfig, select
from sicog.curation.select.threshold_table import ThresholdsConfig, table
from sicog.records import Dropped, Example
from sicog.stages.storage import read_json, read_records, write_dataset


def rows_of(make, n=60):
    rows = []
    for i in range(n):
        k = 2 + i % 5
        marks = [
            (
                "cot" if j == i % 3 else "direct",
                make.cot(f"a{j}") if j == i % 3 else f"a{j}",
                0.95 - i / 70 - j / 9,
                0.5,
            )
            for j in range(k)
        ]
        rows.append(make.scored_set(str(i), "reasoning", marks))
    return rows


@pytest.mark.parametrize("options", [{}, {"styles": ("cot",)}, {"threshold_k": 6, "min_candidates": 2}, {"by": "vote"}])
def test_each_line_is_what_select_keeps(tmp_path, make, options):
    write_dataset(tmp_path / "scored", rows_of(make))
    write_dataset(tmp_path / "out", [Dropped(id="5", step="x", reason="near_duplicate")])
    options = {"exclude": (tmp_path / "out",), **options}
    found = table(ThresholdsConfig(input=tmp_path / "scored", cuts=(0.4, 0.62, 0.7, 0.95), **options))
    by, in_all = options.get("by", "score"), found["rows"] - sum(found["dropped"].values())
    assert found["dropped"]["near_duplicate"] == 1 and found["rows"] == 60
    for n, line in enumerate(found["table"]):
        out = tmp_path / f"kept-{n}"
        select(SelectConfig(input=tmp_path / "scored", out_dir=out, threshold=line["threshold"], **options))
        kept = list(read_records(out, Example))
        assert line["rows_kept"] == len(kept) <= in_all and line["share_kept"] == len(kept) / 60
        if not kept:
            assert line[f"mean_{by}"] is None and not line["styles"]
            continue
        at = options.get("threshold_k", 3)  # a score or vote among k as it would be among so many
        agreements = [(e.extra["k"] * e.extra[by] - 1) / (e.extra["k"] - 1) for e in kept]
        assert line[f"mean_{by}"] == pytest.approx(sum((1 + (at - 1) * a) / at for a in agreements) / len(kept))
        styles = [e.extra["style"] for e in kept]
        assert line["styles"] == {s: pytest.approx(styles.count(s) / len(styles)) for s in sorted(set(styles))}


def test_the_command_prints_and_writes_the_table(tmp_path, make):
    write_dataset(tmp_path / "scored", rows_of(make))
    given = [f"input={tmp_path / 'scored'}", f"out={tmp_path / 'table.json'}", "cuts=[0.6, 0.8]", "min_candidates=2"]
    done = CliRunner().invoke(app, ["thresholds", *given])
    assert done.exit_code == 0, done.output
    assert "60 rows; at no threshold: none" in done.output and "mean score at 3" in done.output and "cot" in done.output
    assert [line["threshold"] for line in read_json(tmp_path / "table.json")["table"]] == [0.6, 0.8]
    write_dataset(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="empty has no rows"):
        table(ThresholdsConfig(input=tmp_path / "empty"))


@pytest.mark.parametrize("cuts", [(1.1,), (0.5, float("nan"))])
def test_a_cut_that_no_score_can_be_is_refused(cuts):
    with pytest.raises(ValueError, match="cuts"):
        ThresholdsConfig(input="x", cuts=cuts)


def test_what_another_program_calls_a_reason_is_text(tmp_path, make):
    write_dataset(tmp_path / "scored", rows_of(make, 9))
    write_dataset(tmp_path / "out", [Dropped(id="5", step="x", reason="[/b] <script>")])
    done = CliRunner().invoke(app, ["thresholds", f"input={tmp_path / 'scored'}", f"exclude={tmp_path / 'out'}"])
    assert done.exit_code == 0 and "[/b] <script> 1" in done.output
    given = {
        "input": tmp_path / "scored",
        "out_dir": tmp_path / "kept",
        "threshold": 0.6,
        "exclude": (tmp_path / "out",),
    }
    assert read_json(select(SelectConfig(**given)) / "manifest.json")["dropped"]["[/b] <script>"] == 1
