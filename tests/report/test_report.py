"""report/: every section, self-contained and inert, with the numbers that the files give when counted by hand."""

import base64
import io
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest
from PIL import Image
from pydantic import ValidationError
from report.fake_run import SCRIPT, fake_run, lines, page_data, write_evaluation

from sicog.console import console_on
from sicog.curation.select.select import SelectConfig, select
from sicog.records import ScoredSet
from sicog.report import terminal
from sicog.report.evaluations import outcome
from sicog.report.write import ReportConfig, report
from sicog.stages.storage import read_json, read_records, write_dataset, write_json

SECTIONS = ["results", "funnel", "scores", "worth", "rows", "mix", "training", "times"]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The page's elements; raises on tags that do not balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)

    def sections(self):
        return [attrs["id"] for tag, attrs in self.tags if tag == "section"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(config values, page text, results) of one whole fake run."""
    values = fake_run(tmp_path_factory.mktemp("run"))
    out = report(ReportConfig(**values))
    return values, (out / "report.html").read_text(), read_json(out / "results.json")


def records(folder: Path):
    return [orjson.loads(line) for shard in sorted(folder.glob("shard-*.jsonl")) for line in shard.open("rb")]


def again(made, tmp_path, **changes):
    """The report of the same run with another config, in another folder."""
    run_dir = made[0]["out_dir"].parent
    out = report(ReportConfig(**{**made[0], "run_dir": run_dir, "out_dir": tmp_path / "report", **changes}))
    return (out / "report.html").read_text(), read_json(out / "results.json")


def test_the_page_has_all_sections_and_loads_nothing(made):
    page = Page(made[1])
    assert page.sections() == SECTIONS
    assert made[1].startswith("<!DOCTYPE html>")
    without_names = made[1].replace("http://www.w3.org/2000/svg", "")  # the name of a kind of element, no address
    assert "http://" not in without_names and "https://" not in without_names
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs) and "src" not in attrs
        assert attrs.get("href", "#").startswith(("#", "data:"))
    assert not {"img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]
    pictures = [picture["src"] for picture in page_data(made[1])["pictures"].values()]
    assert len(pictures) == len(made[2]["examples"]) == 24 and all(p.startswith("data:image/") for p in pictures)
    # steps, results, losses, sweeps, worth, lengths
    assert sum(tag == "svg" for tag, _ in page.tags) == 1 + 2 + 2 + 2 + 3 + 2
    assert str(made[0]["out_dir"].parent) not in made[1]  # no paths of this machine


def test_a_script_in_a_caption_is_inert(made, tmp_path):
    text, results = again(made, tmp_path, examples=100, title=SCRIPT, reasoning=None)  # all captions are shown
    texts = [c["text"] for e in results["examples"] for c in e["candidates"]]
    assert any(SCRIPT in t for t in texts)
    page = Page(text)
    assert sum(tag == "script" for tag, _ in page.tags) == 2 and "img" not in {tag for tag, _ in page.tags}
    assert all("src" not in attrs for _, attrs in page.tags)
    assert SCRIPT not in text and "alert('r13')</script>" not in text
    assert SCRIPT in page.texts  # the title
    assert any(SCRIPT in c["text"] for e in page_data(text)["sample"]["texts"] for c in e["candidates"])
    beside = b"".join(path.read_bytes() for path in (tmp_path / "report" / "rows").iterdir())
    assert b"alert('r13')" in beside and b"<" not in beside


def test_names_of_steps_and_models_are_escaped_in_plots_too(tmp_path):
    values = fake_run(tmp_path, images=6, items=10)
    evil = "<b onclick=x>&"
    (tmp_path / "next").rename(tmp_path / evil)
    values |= {"training": [evil], "evaluations": {evil: tmp_path / "eval-base"}}
    out = report(ReportConfig(**values))
    page = Page((out / "report.html").read_text())
    assert not any("onclick" in attrs for _, attrs in page.tags)
    assert evil in page.texts


def test_paired_differences_by_hand(made, tmp_path):
    base = [True, True, False, False, False, False]
    new = [True, True, True, True, False, False]
    f1 = {"base": [0.2, 0.4, 0.6, 0.8, 0.5, 0.5], "next": [0.3, 0.4, 0.5, 0.7, 0.6, 0.5]}
    folders = {}
    for name, right in (("base", base), ("next", new)):
        answers = [
            {"id": f"t-{i // 2}-q{i % 2}", "type": "count" if i < 3 else "exist", "held_out": i > 3, "right": r}
            for i, r in enumerate(right)
        ]
        captions = [
            {"id": f"t-{i}", "held_out": i > 3, "precision": x, "recall": x, "f1": x} for i, x in enumerate(f1[name])
        ]
        folders[name] = tmp_path / name
        write_evaluation(
            folders[name], name, answers[:: 1 if name == "base" else -1], captions
        )  # joined by id, not place
    _, results = again(made, tmp_path, evaluations=folders)
    rows = {(r["kind"], r["label"]): r for r in results["evaluation"]["rows"]}
    accuracy = rows["questions", "question accuracy"]
    assert accuracy["n"] == 6
    assert accuracy["values"]["base"]["value"] == pytest.approx(2 / 6)
    d = accuracy["differences"]["base"]
    # Images t-0, t-1, t-2 gain 0, 2 and 0 answers; around the mean 1/3 each the sums are -2/3, 4/3, -2/3.
    half = 1.959964 * (3 / 2 * (4 / 9 + 16 / 9 + 4 / 9)) ** 0.5 / 6
    assert (d["value"], d["low"], d["high"]) == pytest.approx((1 / 3, 1 / 3 - half, 1 / 3 + half))
    assert rows["questions", "count questions"]["differences"]["base"]["value"] == pytest.approx(1 / 3)
    assert rows["questions", "held-out combinations"]["differences"]["base"]["value"] == 0
    assert rows["captions", "caption F1"]["differences"]["base"]["value"] == pytest.approx(0, abs=1e-9)
    assert results["evaluation"]["verdict"] == [
        "The next model is not shown to differ from the base model in question accuracy "
        f"(+0.333, 95 % interval {1 / 3 - half:+.3f} to {1 / 3 + half:+.3f}) and in caption F1 "
        f"({results_f1(rows)})."
    ]
    assert results["evaluation"]["compared_with"] == ["base"]


def results_f1(rows):
    d = rows["captions", "caption F1"]["differences"]["base"]
    half = 1.959964 * statistics.stdev([0.1, 0, -0.1, -0.1, 0.1, 0]) / 6**0.5
    assert d["high"] == pytest.approx(half)
    return f"{d['value']:+.3f}, 95 % interval {-half:+.3f} to {half:+.3f}"


def test_better_and_worse_need_an_interval_that_excludes_zero(made):
    assert outcome({"value": 0.1, "low": 0.01, "high": 0.2}) == "better"
    assert outcome({"value": -0.1, "low": -0.2, "high": -0.01}) == "worse"
    assert outcome({"value": 0.1, "low": 0.0, "high": 0.2}) == "open"
    assert outcome({"value": 0.1, "low": float("nan"), "high": float("nan")}) == "open"
    assert outcome({"value": 0.1, "low": None, "high": None}) == "open"
    assert made[2]["evaluation"]["verdict"][0].startswith("The next model is better than the base model in")
    for sentence in made[2]["evaluation"]["verdict"]:
        assert sentence in made[1].replace("&#39;", "'")


def test_the_worth_of_selection_by_hand(made):
    values, _, results = made
    truth = {}
    for line in values["truth"].open("rb"):
        scene = orjson.loads(line)
        truth |= {q["id"]: q["answer"] for q in scene["questions"]}
    kept = {e["id"] for e in records(values["reasoning"]["selected"])}
    random, selected, truest, of_kept, of_dropped = [], [], [], [], []
    for row in records(values["reasoning"]["scored"]):
        right = [float(c["compared"] == truth[row["id"]]) for c in row["candidates"]]
        first = max(range(5), key=lambda i: (row["candidates"][i]["vote"], row["candidates"][i]["score"], -i))
        random.append(sum(right) / 5)
        selected.append(right[first])
        truest.append(max(right))
        (of_kept if row["id"] in kept else of_dropped).append(right[first])
    by_vote, by_embeddings = results["curation"]["reasoning"]["worth"]
    assert (by_vote["method"], by_vote["used"], by_embeddings["used"]) == ("vote", True, False)
    for key, numbers in (("random", random), ("selected", selected), ("truest", truest)):
        assert by_vote[key]["value"] == pytest.approx(statistics.mean(numbers))
    assert by_vote["gain"]["value"] == pytest.approx(statistics.mean(selected) - statistics.mean(random))
    assert by_vote["kept"]["value"] == pytest.approx(statistics.mean(of_kept))
    assert by_vote["dropped"]["value"] == pytest.approx(statistics.mean(of_dropped))
    assert by_embeddings["rows_kept"] == by_vote["rows_kept"] == len(kept)
    assert by_vote["truest"]["value"] >= by_vote["selected"]["value"]
    assert by_vote["is_truest"]["value"] == pytest.approx(
        statistics.mean(float(s == t) for s, t in zip(selected, truest, strict=True))
    )
    # An answer is right or wrong: by chance the truest one is drawn as often as the share that is as true as it.
    chance = [r if t else 1.0 for r, t in zip(random, truest, strict=True)]
    differ = [i for i, c in enumerate(chance) if c < 1]
    assert by_vote["is_truest_by_chance"]["value"] == pytest.approx(statistics.mean(chance))
    assert by_vote["differ"] == len(differ) > 3
    assert by_vote["is_truest_where_they_differ"]["value"] == pytest.approx(
        statistics.mean(float(selected[i] == truest[i]) for i in differ)
    )
    assert [w["method"] for w in results["curation"]["captions"]["worth"]] == ["embeddings"]


def test_the_worth_of_caption_selection_agrees_with_the_sweep(made):
    """The fake sweep ran on the very same rows, so its own figures must come out again."""
    swept = read_json(made[0]["captions"]["threshold_file"])
    (worth,) = made[2]["curation"]["captions"]["worth"]
    for key in ("selected", "random", "truest"):
        assert worth[key]["value"] == pytest.approx(swept["truth_of"][key])
    assert worth["kept"]["value"] == pytest.approx(swept["truth_kept"])
    assert worth["dropped"]["value"] == pytest.approx(swept["truth_dropped"])
    assert worth["rows_kept"] == swept["rows_kept"] == made[2]["curation"]["captions"]["kept"]
    assert any(
        cut["chosen"] and cut["threshold"] == swept["threshold"]
        for cut in made[2]["curation"]["captions"]["sweep"]["table"]
    )


@pytest.mark.parametrize("task", ["captions", "reasoning"])
def test_every_place_of_the_threshold_keeps_what_counting_by_hand_keeps(made, task):
    found = made[2]["curation"][task]
    cuts = found["cuts"]
    assert cuts["cuts"][cuts["at"]] == pytest.approx(found["threshold"]) and cuts["cuts"] == sorted(cuts["cuts"])
    rows = records(made[0][task]["scored"])
    values = []
    for row in rows:
        compared = [c for c in row["candidates"] if c["score"] is not None]
        # A share of all K, itself included, as it would be among three.
        agreement = (len(compared) * max(c[found["by"]] for c in compared) - 1) / (len(compared) - 1)
        values.append((2 * agreement + 1) / 3)
    for place in (0, cuts["at"], len(cuts["cuts"]) // 2, len(cuts["cuts"]) - 1):
        kept = [v for v in values if v >= cuts["cuts"][place] - 1e-6]
        styles = cuts["styles"].values()
        assert sum(sum(s["rows"][place:]) for s in styles) == len(kept)
        assert sum(sum(s["sum"][place:]) for s in styles) == pytest.approx(sum(kept), abs=1e-4)
    assert (
        cuts["rows"] == len(rows)
        and set(cuts["styles"]) == {"captions": {"cod", "dd"}, "reasoning": {"cot", "direct"}}[task]
    )


def test_funnel_and_losses(made):
    chain, captions, _ = made[2]["funnel"]
    assert chain == {
        "name": "warmup-captions/chain",
        "rows_in": 24,
        "kept": 21,
        "rows_out": 21,
        "dropped": {"chain": 2},
        "failed": {"unlucky": 1},
    }
    assert captions["rows_in"] == captions["kept"] + sum(captions["dropped"].values())
    losses = [orjson.loads(line)["loss"] for line in (made[0]["out_dir"].parent / "align" / "metrics.jsonl").open("rb")]
    align = made[2]["training"][0]
    assert (align["updates"], align["samples"]) == (300, 9600)
    assert align["first"] == pytest.approx(statistics.mean(losses[:15]), abs=1e-6)
    assert align["last"] == pytest.approx(statistics.mean(losses[-15:]), abs=1e-6)
    assert align["curve"][0] == [2, pytest.approx(statistics.mean(losses[:2]), abs=1e-6)]
    assert align["curve"][-1][0] == 300


def test_examples_are_of_all_kinds_with_the_chosen_candidate(made):
    examples = made[2]["examples"]
    kinds = [(e["task"], e["state"]) for e in examples]
    assert all(kinds.count((t, k)) >= 2 for t in ("captioning", "reasoning") for k in ("kept", "dropped"))
    assert len({e["images"][0] for e in examples}) == 24
    kept = {
        e["id"]: e["turns"][1]["text"] for task in ("captions", "reasoning") for e in records(made[0][task]["selected"])
    }
    for example in examples:
        best = example["candidates"][example["chosen"]]
        assert kept[example["id"]] == best["text"] if example["state"] == "kept" else "<" in example["detail"]
        assert (example["id"] in kept) == (example["state"] == "kept") and example["truth"]


def test_what_the_config_leaves_out_leaves_its_section_out(made, tmp_path):
    text, results = again(made, tmp_path / "a", truth=None, evaluations={})
    assert Page(text).sections() == [s for s in SECTIONS if s not in ("results", "worth")]
    assert results["evaluation"] is None and "truth" not in results["examples"][0]
    text, _ = again(made, tmp_path / "b", captions=None, reasoning=None, training=[], funnel=[], evaluations={})
    assert Page(text).sections() == ["times"]
    text, results = again(made, tmp_path / "c", image_folder=None, evaluations={"base": made[0]["evaluations"]["base"]})
    assert page_data(text)["pictures"] == {} and page_data(text)["images"] is None
    assert results["evaluation"]["verdict"] == [] and "not shown to differ" not in text


@pytest.mark.parametrize("rows", ["none", "all dropped"])
def test_a_run_that_kept_nothing_still_has_a_page(made, tmp_path, rows):
    scored = tmp_path / "scored"
    given = read_records(made[0]["captions"]["scored"], ScoredSet)
    write_dataset(scored, [] if rows == "none" else list(given))
    selected = select(SelectConfig(input=scored, out_dir=tmp_path / "selected", threshold=1.0))
    text, results = again(made, tmp_path, captions={"scored": scored, "selected": selected}, reasoning=None)
    Page(text)
    assert results["curation"]["captions"]["kept"] == 0
    for worth in results["curation"]["captions"]["worth"]:
        assert worth["kept"]["value"] is None and worth["dropped"] == worth["selected"]
    assert bool(results["examples"]) == (rows == "all dropped")


def test_a_large_photograph_is_embedded_small(made, tmp_path):
    from sicog.data.image_folder import ImageFolder
    from sicog.report.row_images import SIDE, data_url

    Image.effect_noise((900, 600), 80).save(tmp_path / "a b.png")
    url, size = data_url(ImageFolder(tmp_path, cache=tmp_path), "a b.png")
    assert size == (900, 600) and url.startswith("data:image/jpeg;base64,")
    assert max(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size) == SIDE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"truth": "nowhere.jsonl"}, ["truth", "nowhere.jsonl", "does not exist"]),
        ({"evaluations": {"base": "nowhere"}}, ["evaluations.base", "nowhere", "does not exist"]),
        ({"funnel": ["nowhere"]}, ["funnel.nowhere", "manifest.json", "does not exist"]),
        ({"training": ["nowhere"]}, ["training.nowhere", "metrics.jsonl", "does not exist"]),
        ({"image_folder": "nowhere"}, ["image_folder", "nowhere", "does not exist"]),
    ],
)
def test_a_missing_file_is_one_clear_sentence_that_names_it(made, tmp_path, changes, words):
    with pytest.raises(ValueError) as error:
        again(made, tmp_path, **changes)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "report").exists()


def test_files_that_do_not_belong_together_are_sentences(made, tmp_path):
    values = made[0]
    with pytest.raises(ValueError, match="keeps row .* is not in"):
        again(made, tmp_path / "a", captions={**values["captions"], "selected": values["reasoning"]["selected"]})
    other = tmp_path / "other.jsonl"
    lines(other, [orjson.loads(values["truth"].open("rb").readline())])
    with pytest.raises(ValueError, match="is missing in"):
        again(made, tmp_path / "b", truth=other)
    write_evaluation(tmp_path / "few", "next", [{"id": "x-q0", "type": "count", "held_out": False, "right": True}], [])
    with pytest.raises(ValueError, match="have different questions"):
        again(made, tmp_path / "c", evaluations={**values["evaluations"], "next": tmp_path / "few"})
    write_json(tmp_path / "empty" / "metrics.json", {})
    with pytest.raises(ValueError, match="has neither questions nor captions"):
        again(made, tmp_path / "d", evaluations={"base": tmp_path / "empty"})
    with pytest.raises(ValidationError, match="unknown"):
        ReportConfig(**values, unknown=1)


def test_a_finished_report_is_only_printed_again(made, capsys):
    out = made[0]["out_dir"]
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    report(ReportConfig(**made[0]))
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert read_json(out / "manifest.json")["files"].keys() == {
        "report.html",
        "results.json",
        "rows/00000.js",
        "rows/index.js",
    }
    assert read_json(out / "run.json")["step"] == "report"
    with pytest.raises(ValueError, match="belongs to another run"):
        report(ReportConfig(**{**made[0], "seed": 1}))


def test_equal_inputs_give_equal_bytes(made, tmp_path):
    beside = made[0]["out_dir"].parent / "report-again"  # links to pictures are relative to the page
    out = report(ReportConfig(**{**made[0], "out_dir": beside}))
    for name in ("report.html", "results.json", "rows/00000.js", "rows/index.js", "manifest.json"):
        assert (out / name).read_bytes() == (made[0]["out_dir"] / name).read_bytes(), name


def test_the_tables_say_what_the_page_says(made):
    log = io.StringIO()
    terminal.show(made[2], Path("report.html"), console_on(log, file=log))
    printed = log.getvalue()
    row = made[2]["evaluation"]["rows"][0]
    for name in ("base", "next", "control"):
        assert terminal.figure(row["values"][name]) in printed
    for other in ("base", "control"):
        assert f"next - {other}" in printed and terminal.figure(row["differences"][other], "+") in printed


def test_neither_torch_nor_the_steps_are_imported_but_for_the_rule_of_selection(made, tmp_path):
    values = ReportConfig(**{**made[0], "run_dir": made[0]["out_dir"].parent, "out_dir": tmp_path / "r"})
    code = (
        "import sys; from sicog.report.write import ReportConfig, report; "
        "report(ReportConfig.model_validate_json(sys.argv[1])); "
        "steps = ('annotation', 'training', 'generation', 'evaluation'); "
        "names = ('torch', 'transformers', *(f'sicog.{s}' for s in steps)); "
        "bad = [m for m in sys.modules if m in names]; "
        "rule = ('score', 'score.columns', 'score.self_consistency', 'score.similarity', 'select', 'select.threshold', "
        "'select.verdicts'); "
        "bad += [m for m in sys.modules if m.startswith('sicog.curation.') and m[len('sicog.curation.'):] not in rule];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, values.model_dump_json()], check=True, capture_output=True)
