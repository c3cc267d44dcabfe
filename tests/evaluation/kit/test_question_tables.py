"""Tables in the kit's forms as queries: where they lie, pictures alone, several, shared, by path; what rows share."""

import base64
import re
from pathlib import Path

import pytest
from evaluation.stand_ins import CHOICES, paper_tables, picture, write_tsv

from sicog.evaluation.kit import question_tables as kit_tables
from sicog.evaluation.kit.question_tables import ANSWERS, data_root, table_file, unpack_table
from sicog.evaluation.kit.result_files import read_table
from sicog.evaluation.sampled.suites import SampledConfig, sampled_evaluation
from sicog.evaluation.suite import OFFLINE, Benchmark, load_suite
from sicog.records import Query
from sicog.stages.storage import read_records


def one(index, **more):
    return {"index": index, "question": f"What is {index}?", "answer": "red", **more}


def queries_of(tmp_path, rows, *, dataset="DocVQA_VAL", form="document", family="docvqa"):
    """The queries by id, each one's group, and how many rows are left out."""
    benchmark = Benchmark(name="docs", dataset=dataset, form=form, family=family)
    write_tsv(tmp_path / f"{dataset}.tsv", rows, drawn=False)
    questions, n_bare = unpack_table(benchmark, table_file(benchmark, tmp_path), tmp_path, tmp_path / "out")
    groups = {row["index"]: row["group"] for row in read_table(tmp_path / "out" / ANSWERS)}
    return {q.id: q for q in read_records(questions, Query)}, groups, n_bare


def test_the_paper_s_data_sets_are_asked_as_the_kit_is(tmp_path):
    asked = {}
    for benchmark in (b for b in load_suite("paper").benchmarks if b.form in OFFLINE):
        write_tsv(tmp_path / f"{benchmark.dataset}.tsv", paper_tables()[benchmark.dataset])
        folder = tmp_path / "out" / benchmark.name
        questions, n_bare = unpack_table(benchmark, table_file(benchmark, tmp_path), tmp_path, folder)
        asked[benchmark.name] = list(read_records(questions, Query))
        rows = read_table(folder / ANSWERS)
        assert n_bare == 0 and [row["index"] for row in rows] == [q.id for q in asked[benchmark.name]]
        assert "image" not in rows[0]
        if benchmark.name == "MMBench":  # two questions in two orders, each row with a picture of its own
            groups = {row["index"]: row["group"] for row in rows}
            assert groups["0"] == groups["1000000"] != groups["1"] == groups["1000001"]
    assert len(asked) == 10
    options = "\n".join(f"{letter}. {text}" for letter, text in CHOICES.items())
    assert asked["ScienceQA"][0].question == f"Look up.\nWhich color has thing 0?\n{options}"
    assert asked["MME"][1].question == "Is thing 1 red? Please answer yes or no."


def test_pictures_several_shared_and_none(tmp_path):
    rows = [
        one(0, image="2"),  # of a row that comes later
        one(1, image=str([picture(1), picture(2)])),
        one(2, image=picture(3)),
        one(3, image=picture(2)),  # the same picture as the second of row 1
        one(4, image=""),
        one(5, image="1"),
        one(6, image=picture(4)),
    ]
    queries, groups, n_bare = queries_of(tmp_path, rows)
    assert n_bare == 1 and sorted(queries) == ["0", "1", "2", "3", "5", "6"]
    shown = {i: [(tmp_path / "out" / name).read_bytes() for name in q.images] for i, q in queries.items()}
    first, second = (base64.b64decode(picture(n)) for n in (1, 2))
    assert shown["1"] == shown["5"] == [first, second] and shown["3"] == [second]
    assert shown["0"] == shown["2"] and len(list((tmp_path / "out/images").iterdir())) == 4
    assert groups["1"] == groups["3"] == groups["5"] and groups["0"] == groups["2"]
    assert len({groups[i] for i in ("0", "1", "6")}) == 3


def test_a_column_of_groups_is_kept(tmp_path):
    _, groups, _ = queries_of(tmp_path, [one(0, image=picture(), group="x"), one(1, image=picture(), group="y")])
    assert groups == {"0": "x", "1": "y"}


def test_a_large_table_is_the_one_that_names_files(tmp_path, monkeypatch):
    folder = tmp_path / "images" / "DocVQA_VAL"
    folder.mkdir(parents=True)
    for n in range(3):
        (folder / f"{n}.jpg").write_bytes(base64.b64decode(picture(n)))
    paths = [f"{folder}/0.jpg", str([f"{folder}/1.jpg", f"{folder}/2.jpg"]), "2.jpg"]
    local = [one(i, image_path=path) for i, path in enumerate(paths)]
    write_tsv(tmp_path / "DocVQA_VAL_local.tsv", local, drawn=False)
    queries, _, _ = queries_of(tmp_path / "small", [one(0, image=picture())])
    assert len(queries) == 1
    monkeypatch.setattr(kit_tables, "_LARGE", 10)
    queries, groups, _ = queries_of(tmp_path, [one(0, image=picture())])
    assert [len(queries[i].images) for i in "012"] == [1, 2, 1] and groups["1"] == groups["2"] != groups["0"]
    for name in ("/etc/hosts", "../../DocVQA_VAL.tsv"):
        write_tsv(tmp_path / "DocVQA_VAL_local.tsv", [one(7, image_path=name)], drawn=False)
        with pytest.raises(ValueError, match=r"DocVQA_VAL_local.tsv, index 7: "):
            unpack_table(
                Benchmark(name="docs", dataset="DocVQA_VAL", form="document", family="docvqa"),
                tmp_path / "DocVQA_VAL_local.tsv",
                tmp_path,
                tmp_path / "other",
            )


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"index": 0, "question": "?", "image": picture()}], "DocVQA_VAL.tsv: the column 'answer' is missing"),
        ([one(0)], "the column 'image or image_path' is missing"),
        ([one(0, image=picture()), one(1, image=picture()) | {"answer": ""}], "DocVQA_VAL.tsv:3: answer is empty"),
        ([one(0, image=picture()), one(0, image=picture())], "index 0: the index occurs twice"),
        ([one(0, image="9")], "index 0: '9' is neither an image nor the index of a row with an image"),
        ([one(0, image="0")], "index 0: '0' is neither an image"),
        ([one(0, image="x" * 65)], "index 0: its picture is not in base64"),
        ([one(0, image="x" * 68)], "index 0: its picture cannot be opened"),
        ([one(0, image="[" + "x" * 68 + "]")], "index 0: its pictures are not a list of texts"),
        ([one(0, image_path="gone.png")], "index 0: .*gone.png does not exist"),
        ([one(0, image_path="")], "index 0: it has no picture"),
        ([one(0, image="")], "has no rows"),
    ],
)
def test_a_row_that_is_no_good_is_named(tmp_path, rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        queries_of(tmp_path, rows)


def test_circular_rows_are_known_by_whole_numbers(tmp_path):
    with pytest.raises(ValueError, match="MMBench_DEV_EN.tsv, index a: an index of MMBench_DEV_EN is a whole number"):
        queries_of(tmp_path, [one("a", image=picture())], dataset="MMBench_DEV_EN")


def test_where_the_kit_keeps_its_data(tmp_path, monkeypatch):
    monkeypatch.setenv("LMUData", str(tmp_path))
    assert data_root(None) == tmp_path and data_root(Path("here")) == Path("here").absolute()
    monkeypatch.delenv("LMUData")
    assert data_root(None) == Path.home() / "LMUData"


def test_what_cannot_be_asked_is_said_before_a_model_is_loaded(tmp_path):
    def asked(**values):
        return sampled_evaluation(
            SampledConfig(
                checkpoints=(tmp_path / "none",), suite="paper", out_dir=tmp_path, data_root=tmp_path, **values
            )
        )

    missing = re.escape(f"'POPE': {tmp_path / 'POPE.tsv'} is missing. Run `sicog eval` once without --samples")
    with pytest.raises(ValueError, match=missing):
        asked(only=("POPE",))
    with pytest.raises(ValueError, match="only a judge model can score MMVet, but samples are scored as strings"):
        asked(only=("MME", "MMVet"))
