"""Suites: the shipped one holds the paper's benchmarks and figures; a user's table is checked before anything runs."""

import re
from pathlib import Path

import pytest
import yaml

from sicog.evaluation.suite import Suite, benchmark_identity, check_table, chosen_benchmarks, load_suite

PAPER = {  # the paper's figures of Qwen2-7B-UHD, base and SICOG
    "MMBench": (77.6, 78.1),
    "MMStar": (48.9, 52.5),
    "MMVet": (38.3, 40.6),
    "MME": (1554.8, 1596.6),
    "POPE": (87.3, 87.8),
    "RealWorldQA": (63.5, 65.2),
    "MathVista": (38.9, 41.4),
    "ScienceQA": (77.3, 79.4),
    "AI2D": (74.9, 78.4),
    "OCRBench": (55.2, 57.7),
    "DocVQA": (70.2, 73.7),
    "ChartQA": (70.0, 73.1),
}


def test_the_paper_s_suite():
    suite = load_suite("paper")
    assert {b.name: (b.paper["base"], b.paper["sicog"]) for b in suite.benchmarks} == PAPER
    assert [b.name for b in chosen_benchmarks(suite, ("POPE", "MME"))] == ["MME", "POPE"]
    with pytest.raises(ValueError, match="the suite has no benchmark 'Pope'. Use one of: MMBench, "):
        chosen_benchmarks(suite, ("Pope",))


def suite(folder: Path, text: str):
    (folder / "suite.yaml").write_text(text)
    return load_suite(str(folder / "suite.yaml"))


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("{name: a, form: short}", "set either dataset .* or table"),
        ("{name: a, dataset: X, table: x.tsv, form: short}", "set either dataset .* or table"),
        ("{name: a, dataset: X, form: essay}", "unknown form 'essay'. Use one of: choice, yes_no"),
        ("{name: a, dataset: X, form: chart}", "family is missing. Use one of: choice"),
        ("{name: a, table: x.tsv, form: open}", "cannot be scored. Use one of: choice, yes_no, short"),
        ("{name: a, dataset: X, form: choice}, {name: a, dataset: Y, form: choice}", "have the name 'a'"),
        ("{name: a, dataset: X, form: choice}, {name: b, dataset: X, form: choice}", "have the name 'X'"),
    ],
)
def test_a_mistake_in_a_suite(tmp_path, entry, sentence):
    with pytest.raises(ValueError, match=sentence):
        suite(tmp_path, f"benchmarks: [{entry}]")


def test_an_unknown_suite():
    with pytest.raises(ValueError, match=r"'nope' is neither a file nor a shipped suite. Use a path or one of: paper"):
        load_suite("nope")


def table(folder: Path, form: str, *rows: str):
    (folder / "t.tsv").write_text("\n".join(rows) + "\n")
    return suite(folder, f"benchmarks: [{{name: My table, table: t.tsv, form: {form}}}]").benchmarks[0]


@pytest.mark.parametrize(
    ("form", "rows", "sentence"),
    [
        ("short", ("index\tquestion\tanswer", "1\tq\ta"), "missing columns: image"),
        ("choice", ("index\tquestion\tanswer\timage", "1\tq\tA\tx"), "missing columns: A, B"),
        ("short", ("index\tquestion\tanswer\timage", "1\tq\t\tx"), "t.tsv:2: answer is empty"),
        ("short", ("index\tquestion\tanswer\timage", "1\tq\ta\tx", "1\tq\ta\tx"), "t.tsv:3: index '1' occurs twice"),
        ("yes_no", ("index\tquestion\tanswer\timage", "1\tq\tmaybe\tx"), "t.tsv:2: .* must be yes or no .*'maybe'"),
        ("choice", ("index\tquestion\tanswer\timage\tA\tB", "1\tq\tC\tx\ta\tb"), "the letter of an option .*'C'"),
        ("short", ("index\tquestion\tanswer\timage",), "has no rows"),
        ("short", ("index\tquestion\tanswer\timage_path", "1\tq\ta\t../x.png"), r"t.tsv:2: .*\.\./x.png"),
        ("short", ("index\tquestion\tanswer\timage_path", "1\tq\ta\tnone.png"), "t.tsv:2: .*none.png"),
    ],
)
def test_a_table_is_checked_row_by_row(tmp_path, form, rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_table(table(tmp_path, form, *rows))


def test_a_table_is_known_by_its_content(tmp_path):
    """The kit reuses what it finds under a name: other rows need another name, and are another benchmark."""
    head = "index\tquestion\tanswer\timage"
    first = table(tmp_path, "short", head, "1\tq\ta\tx")
    name, before = first.data_name, benchmark_identity(first)
    assert name.startswith("table_My-table_") and check_table(first) == 1
    second = table(tmp_path, "short", head, "1\tq\tb\tx")
    assert second.data_name != name and benchmark_identity(second) != before


def test_the_suite_of_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    shown = Suite.model_validate(yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]))
    assert [b.scored_as for b in shown.benchmarks] == ["pope", "local"]
