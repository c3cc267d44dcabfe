"""VLMEvalKit itself, in the environment of `make eval-env`: run by `make test-eval`, left out where there is none."""

import base64
import os
import subprocess

import orjson
import pytest
import torch
from evaluation.stand_ins import choice_rows, paper_tables, picture, write_tsv
from openpyxl import Workbook
from tiny import tiny_checkpoint

from sicog.evaluation.config import EvalConfig
from sicog.evaluation.families import FAMILIES
from sicog.evaluation.kit.evaluate import evaluate
from sicog.evaluation.kit.result_files import find_runs, read_table
from sicog.evaluation.kit.work_folder import fresh_scores, work_folder
from sicog.evaluation.sampled.answer_scores import accepted_answers, score_answer
from sicog.evaluation.summarize import results
from sicog.mini.measure_model import MiniEvalConfig, mini_eval
from sicog.mini.parts_training.mini_parts import SHIPPED, unpack
from sicog.mini.steps import MiniDataStep, mini_data
from sicog.mini.truth import truth_file
from sicog.mini.tsv import MiniTsvConfig, mini_tsv
from sicog.model import load_parts
from sicog.stages.storage import read_json

PYTHON = os.environ.get("SICOG_EVAL_PYTHON")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="needs VLMEvalKit's environment: `make test-eval`"),
    pytest.mark.timeout(900),
]
OPEN = {  # form: questions and accepted answers
    "short": [("How many?", "two"), ("Which color?", "['red', 'crimson']")],
    "document": [("What date?", "1 May 2026"), ("Who signs?", "Ada")],
    "chart": [("How much in May?", "12.5"), ("And in June?", "40%")],
    "ocr": [("What is written?", "STOP"), ("And below?", "ahead")],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def config(checkpoint, out_dir, **values):
    given = {"out_dir": out_dir, "data_root": out_dir / "lmu", "max_new_tokens": 4, "device": "cpu"}
    return EvalConfig(checkpoint=checkpoint, **{**given, **values})


def all_forms(folder):
    """A suite with a table of every form."""
    claims = [
        {"index": i, "question": f"Is it {c}?", "answer": a}
        for i, (c, a) in enumerate(zip("ab", ("yes", "no"), strict=True))
    ]
    write_tsv(folder / "choice.tsv", choice_rows(3))
    (folder / "pictures").mkdir(parents=True)
    for row in claims:  # these by path, the others in the table
        row["image_path"] = f"pictures/{row['index']}.png"
        (folder / row["image_path"]).write_bytes(base64.b64decode(picture(row["index"])))
    write_tsv(folder / "yes_no.tsv", claims, drawn=False)
    for form, rows in OPEN.items():
        listed = [{"index": i, "question": q, "answer": a, "category": form} for i, (q, a) in enumerate(rows)]
        write_tsv(folder / f"{form}.tsv", listed)
    lines = [f"  - {{name: {form}, table: {form}.tsv, form: {form}}}" for form in ("choice", "yes_no", *OPEN)]
    (folder / "suite.yaml").write_text("\n".join(["benchmarks:", *lines]) + "\n")
    return folder / "suite.yaml"


def test_the_kit_scores_a_table_of_every_form(checkpoint, tmp_path):
    suite = all_forms(tmp_path / "tables")
    work = evaluate(config(checkpoint, tmp_path / "out", suite=str(suite), batch_size=2))
    scores = read_json(work / "scores.json")["benchmarks"]
    assert sorted(scores) == sorted(("choice", "yes_no", *OPEN))
    for form, rows in OPEN.items():
        said = read_table(work / "sicog" / f"sicog_{scores[form]['data']}.xlsx")
        own = [
            score_answer(form, str(s["prediction"]), accepted_answers(a)) for s, (_, a) in zip(said, rows, strict=True)
        ]
        assert scores[form]["value"] == pytest.approx(100 * sum(own) / len(own), abs=1e-3)
    assert scores["choice"]["versions"]["ms-vlmeval"] == scores["choice"]["kit"]["version"] == "0.0.20"
    assert scores["choice"]["kit"]["commit"] is None
    again = (work / "kit.log").stat().st_mtime_ns
    assert evaluate(config(checkpoint, tmp_path / "out", suite=str(suite), batch_size=2)) == work
    assert (work / "kit.log").stat().st_mtime_ns == again
    assert results([tmp_path / "out"], tmp_path / "table").count("\n| ") == 7


def speaking_checkpoint(folder):
    """The mini world's shipped parts, so that answers are words, if not the right ones: nothing has joined them yet."""
    unpack(SHIPPED, folder / "parts")
    torch.manual_seed(0)
    places = (folder / "parts" / name for name in ("vision_tower", "language_model"))
    for part in load_parts(*places, scale=112, query_grid=4):
        part.save_pretrained(folder / "model")
    return folder / "model"


def test_the_mini_world_is_scored_as_our_own_evaluation_scores_it(tmp_path):
    """Same answers, row by row, and the same accuracy, which is neither nothing nor all: half the truth is bent."""
    checkpoint = speaking_checkpoint(tmp_path)
    counts = {"align": 1, "sft": 1, "warmup_captions": 1, "warmup_reasoning": 1, "unlabelled": 1, "dev": 1, "test": 8}
    data = mini_data(MiniDataStep(out_dir=tmp_path / "data", **counts))
    values = {"name": "tiny", "checkpoint": checkpoint, "data": data, "max_new_tokens": 8}
    mini_eval(MiniEvalConfig(out_dir=tmp_path / "first", **values))
    said = {a["id"]: a["answer"] for a in map(orjson.loads, (tmp_path / "first" / "answers.jsonl").open("rb"))}
    plain = {i for i, text in said.items() if text.strip() and text.isascii() and text.isprintable()}
    bent = {i: said[i] for i in sorted(plain)[::2]}  # what is true now
    tables = mini_tsv(MiniTsvConfig(data=data, out_dir=tmp_path / "tables"))
    rows = read_table(tables / "short.tsv")
    write_tsv(tables / "short.tsv", [{**row, "answer": bent.get(row["index"], row["answer"])} for row in rows])
    file = truth_file(data, "test")
    scenes = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    for question in (q for scene in scenes for q in scene["questions"]):
        question["answer"] = bent.get(question["id"], question["answer"])
    file.write_bytes(b"".join(orjson.dumps(scene) + b"\n" for scene in scenes))

    own = mini_eval(MiniEvalConfig(out_dir=tmp_path / "second", **values))
    accuracy = read_json(own / "metrics.json")["questions"]["accuracy"]["value"]
    work = evaluate(
        config(checkpoint, tmp_path / "out", suite=str(tables / "suite.yaml"), only=("mini-short",), max_new_tokens=8)
    )
    score = read_json(work / "scores.json")["benchmarks"]["mini-short"]
    kit = {r["index"]: str(r["prediction"] or "") for r in read_table(work / "sicog" / f"sicog_{score['data']}.xlsx")}
    assert {i: kit[i] for i in plain} == {i: said[i] for i in plain}
    assert len(plain) > 5 and 0 < accuracy < 1
    assert score["value"] == pytest.approx(100 * accuracy, abs=1e-3)


def test_the_paper_s_suite_on_stand_ins(checkpoint, tmp_path):
    """Every benchmark gets its figure by the key that the suite looks for, and the rows give the same figure."""
    for name, rows in paper_tables().items():
        write_tsv(tmp_path / "lmu" / f"{name}.tsv", rows)
    values = {"verify_data": False, "data_root": tmp_path / "lmu"}
    work = evaluate(config(checkpoint, tmp_path / "out", **values))
    scores = read_json(work / "scores.json")["benchmarks"]
    assert {name for name, s in scores.items() if s["value"] is None} == {"MMVet", "MathVista"}
    judged = config(checkpoint, tmp_path / "out", **values, judge="gpt-4-turbo", only=("MMVet", "MathVista"))
    other = work_folder(judged, fresh_scores(judged, checkpoint))
    for data, column, marks in (("MMVet", "score", (0.5, 1.0)), ("MathVista_MINI", "res", (4, "a"))):
        write_marks(work / "sicog" / f"sicog_{data}.xlsx", other / "sicog", column, marks)
    assert evaluate(judged) == other
    by_judge = read_json(other / "scores.json")["benchmarks"]
    assert (by_judge["MMVet"]["value"], by_judge["MathVista"]["value"]) == (75.0, 50.0)
    for file, n in ((work, 10), (other, 2)):
        (run,) = find_runs([file], None)
        scored = [result for result in run.results.values() if result.value is not None]
        assert len(scored) == n
        for result in scored:
            figure = sum(100 * n.sum() / d.sum() for n, d in FAMILIES[result.family].figure(result.questions))
            if result.name != "OCRBench":  # its figure counts on a thousand rows
                assert figure == pytest.approx(result.value, abs=1e-3), result.name


def write_marks(predictions, folder, column, marks):
    """What a judge has said, as the kit keeps it: no judge is asked then."""
    rows = read_table(predictions)
    folder.mkdir(parents=True, exist_ok=True)
    book = Workbook()
    book.active.append([*rows[0], column, "log"])
    for row, mark in zip(rows, marks, strict=True):
        book.active.append([*row.values(), mark, "judged"])
    book.save(folder / f"{predictions.stem}_gpt-4-turbo.xlsx")


def test_the_kit_s_environment_is_whole():
    done = subprocess.run([str(PYTHON), "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
