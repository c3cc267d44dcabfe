"""Each section of the page holds what it is there for, with the numbers of the run."""

from html.parser import HTMLParser

import pytest
from report.fake_run import fake_run

from sicog.report.write import ReportConfig, report
from sicog.stages.storage import read_json


class Sections(HTMLParser):
    """The words and the elements of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.elements, self.now = {}, {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "section":
            self.now = dict(attrs)["id"]
        self.elements.setdefault(self.now, []).append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.now = None if tag == "section" else self.now

    def handle_data(self, data):
        self.words[self.now] = " ".join([*self.words.get(self.now, "").split(), *data.split()])

    def count(self, section, tag, css=None):
        """Elements of a section, by tag and class."""
        found = [attrs for name, attrs in self.elements[section] if name == tag]
        return sum(css is None or css in (attrs.get("class") or "").split() for attrs in found)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = report(ReportConfig(**fake_run(tmp_path_factory.mktemp("run"), images=12, items=20)))
    return Sections((out / "report.html").read_text()), read_json(out / "results.json")


def figure(interval, signed=False):
    """The figure and its interval as the page writes them."""
    numbers = [f"{interval[key]:{'+' if signed else ''}.3f}".replace("-", "−") for key in ("value", "low", "high")]
    return f"{numbers[0]} {numbers[1]} to {numbers[2]}"


def test_the_funnel_counts_rows(made):
    page, results = made
    assert "warmup-captions/chain 12 9 75 % chain 2, failed: unlucky 1" in page.words["funnel"]
    for step in results["funnel"]:
        dropped = sum(step["dropped"].values())
        assert step["rows_in"] == step["kept"] + dropped + sum(step["failed"].values())
        assert f"{step['name']} {step['rows_in']} {step['kept']}" in page.words["funnel"]
        assert not dropped or f" {dropped}" in page.words["funnel"]
    assert page.count("funnel", "span", "failed") == 2  # the key and the bar


def test_the_losses_are_curves(made):
    page, results = made
    assert page.count("training", "polyline", "main") == page.count("training", "polyline", "faint") == 2
    for run in results["training"]:
        assert f"300 updates, 9,600 samples, loss {run['first']:.3f} to {run['last']:.3f}" in page.words["training"]


def test_the_threshold_of_each_task_can_be_moved(made):
    page, results = made
    assert page.count("scores", "div", "threshold") == 2
    for task in results["curation"].values():
        share = f"{100 * task['kept'] / task['rows']:.1f} %".replace(".0 ", " ")
        assert f"{task['kept']} of {task['rows']} scored rows were kept ({share})" in page.words["scores"]
    assert page.count("scores", "line", "cut") == 2  # in both sweeps; the histograms are the script's


def test_base_and_next_stand_side_by_side_with_intervals(made):
    page, results = made
    rows = results["evaluation"]["rows"]
    assert {"question accuracy", "count questions", "caption F1", "held-out combinations"} <= {r["label"] for r in rows}
    for row in rows:
        values = " ".join(figure(row["values"][name]) for name in ("base", "next", "control"))
        differences = " ".join(figure(row["differences"][name], signed=True) for name in ("base", "control"))
        assert f"{row['label']} {row['n']} {values} {differences}" in page.words["results"]
    assert page.count("results", "line", "whisker") == 2 * len(rows)


def test_selected_stands_beside_random_and_truest_and_kept_beside_dropped(made):
    page, results = made
    assert page.count("worth", "svg") == 3  # captions by embeddings, answers by vote and by embeddings
    for task in results["curation"].values():
        for worth in task["worth"]:
            row = [figure(worth[key]) for key in ("random", "selected", "truest")]
            row += [figure(worth["gain"], signed=True), *(figure(worth[key]) for key in ("kept", "dropped"))]
            assert " ".join(row) in page.words["worth"]
    for word in ("random candidate", "selected candidate", "truest candidate", "rows kept", "rows dropped"):
        assert word in page.words["worth"]


def test_styles_and_lengths_are_counted(made):
    page, results = made
    captions = {style["style"]: style for style in results["mix"]["captions"]["styles"]}
    assert (captions["cod"]["candidates"], captions["dd"]["candidates"]) == (24, 12)
    assert sum(style["chosen"] for style in captions.values()) == 12
    assert sum(style["kept"] for style in captions.values()) == results["curation"]["captions"]["kept"]
    assert page.count("mix", "svg") == 2 and "cod 24 0" in page.words["mix"]
    for found in results["mix"].values():
        for style in found["styles"]:
            lines = found["lengths"]["styles"].get(style["style"], {"kept": [], "dropped": []})
            assert (sum(lines["kept"]), sum(lines["kept"] + lines["dropped"])) == (style["kept"], style["chosen"])


def test_how_often_the_chosen_candidate_is_the_truest_one(made):
    page, results = made
    for task in results["curation"].values():
        for worth in task["worth"]:
            found = worth["is_truest"]
            limits = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}".replace("-", "−")
            assert f"{100 * found['value']:.1f} % {limits}" in page.words["worth"]
            assert found["value"] >= worth["is_truest_where_they_differ"]["value"]
