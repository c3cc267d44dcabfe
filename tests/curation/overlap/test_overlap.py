"""`sicog overlap`: near-duplicates and benchmarks, over records of any step, as a dataset of drops."""

import json
import os
import pickle
import random
from dataclasses import replace

import pytest
from pictures_and_rows import as_base64, picture, row, words, write_tsv

from sicog.curation.numbered_rows import open_rows
from sicog.curation.overlap.benchmarks import Benchmark, BenchmarkRow, BenchmarkTexts, read_benchmark
from sicog.curation.overlap.marks import compared_rows
from sicog.curation.overlap.overlap import OverlapConfig, overlap
from sicog.curation.select.select import to_example
from sicog.curation.words import words as words_of
from sicog.records import Dropped, Example, Query
from sicog.stages.runner import run_stage
from sicog.stages.storage import read_json, read_records, write_dataset
from sicog.tasks import CAPTIONING

LONG = words(1, 20)


@pytest.fixture
def world(tmp_path):
    """Images a (copied, recompressed and scaled as a2, a3) to d, and a folder for what is made of them."""
    folder = tmp_path / "images"
    folder.mkdir()
    for k, name in enumerate("abcd"):
        picture(k).save(folder / f"{name}.png")
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    picture(0).save(folder / "a2.jpg", quality=60)
    picture(0).resize((64, 53)).save(folder / "a3.png")
    return tmp_path


def found(world, rows, out="out", name="rows", **config):
    if not (world / name).exists():
        write_dataset(world / name, rows, rows_per_shard=3)
    values = {
        "input": world / name,
        "out_dir": world / out,
        "image_folder": world / "images",
        "cache_dir": world / "cache",
    }
    overlap(OverlapConfig(**values, max_dropped_share=1.0, **config))
    return {drop.id: (drop.reason, drop.detail) for drop in read_records(world / out, Dropped)}


DUPLICATES = [
    row("1", "a.png", "Describe.", words(10), 0.8),
    row("2", "copy.png", "describe!", words(11), 0.9),  # the same image and question: the answer does not count
    row("3", "a.png", "How many?", "two"),
    row("4", "a2.jpg", "Describe.", words(11) + " more"),  # a near image, and nearly the same text as row 2
    row("5", "a3.png", "Describe.", words(12)),  # a near image, but another text
    row("6", "b.png", "Describe.", words(10)),  # the same text, but another image
    row("7", None, "Tell me.", words(13)),
    row("8", None, "Tell me.", words(13) + " now"),  # of texts without scores the first id stays
    row("9", None, "Tell me.", words(14)),
    row("10", "d.png", "Describe.", words(15), 0.7),
]


def test_what_a_duplicate_is(world):
    drops = found(world, DUPLICATES, deduplicate={})
    assert drops == {i: ("near_duplicate", f"of {best}") for i, best in {"1": "2", "4": "2", "8": "7"}.items()}
    manifest = read_json(world / "out" / "manifest.json")
    assert (manifest["rows_examined"], manifest["found"]["near_duplicate"], manifest["rows_out"]) == (10, 3, 3)


def test_the_order_of_rows_changes_nothing_nor_do_processes_that_are_sent_the_work(world, monkeypatch):
    def sent(stage, *how):
        source, process = pickle.loads(pickle.dumps((stage.source, stage.process)))
        return run_stage(replace(stage, source=source, process=process), *how)

    monkeypatch.setattr("sicog.curation.overlap.image_pass.run_stage", sent)
    known = found(world, DUPLICATES, deduplicate={})
    shuffled = random.Random(1).sample(DUPLICATES, len(DUPLICATES))
    values = {"deduplicate": {}, "cache_dir": world / "cache 2", "image_folder": world / "images"}
    write_dataset(world / "other", shuffled, rows_per_shard=4)
    out = overlap(OverlapConfig(input=world / "other", out_dir=world / "again", **values))
    assert {d.id: (d.reason, d.detail) for d in read_records(out, Dropped)} == known


def test_the_settings_count(world):
    assert set(found(world, DUPLICATES, deduplicate={"image_distance": 0})) == {"1", "8"}
    assert set(found(world, [], "exact", deduplicate={"text_similarity": 1.0})) == {"1"}


def test_queries_and_candidates_can_be_examined_too(world, make):
    queries = [Query(id=i, task="captioning", images=(f,)) for i, f in enumerate_ids("a.png", "a2.jpg", "b.png")]
    assert found(world, queries, deduplicate={}, name="queries") == {"1": ("near_duplicate", "of 0")}
    sets = [
        make.scored_set("a", "captioning", [("dd", words(3), 0.5, None), ("dd", words(4), 0.8, None)]),
        make.scored_set("b", "captioning", [("dd", words(4), 0.9, None), ("dd", words(6), 0.9, None)]),
        make.scored_set("c", "captioning", [("dd", words(5), 0.9, None)]),
    ]
    picture(0).save(world / "images" / "b.png")
    assert found(world, sets, "o2", name="scored", deduplicate={}) == {"a": ("near_duplicate", "of b")}
    kept = [make.candidate_set("a", "captioning", [("dd", words(4))]), make.candidate_set("b", "captioning", [])]
    assert found(world, kept, "o3", name="sets", deduplicate={}) == {"b": ("near_duplicate", "of a")}


@pytest.mark.parametrize("form", ["sets", "examples", "votes"])
def test_the_row_that_stays_agrees_best_whatever_its_number_of_candidates(world, make, form):
    """Scores with self are 1 for one candidate, 0.9 for two and 0.88 for three; agreements none, 0.8 and 0.82."""
    marks = {"1-alone": (1.0,), "2-of-two": (0.9, 0.9), "3-of-three": (0.88, 0.8, 0.8)}
    task, style = ("reasoning", "direct") if form == "votes" else ("captioning", "dd")
    sets = []
    for row_id, scores in marks.items():
        candidates = [(style, words(k or 4), s, s) for k, s in enumerate(scores)]
        one = make.scored_set(row_id, task, candidates)
        if form == "votes":  # by the answer alone: other answers are worse
            update = {"score": None, "agreement": None}
            one = one.model_copy(
                update={"candidates": tuple(c.model_copy(update=update) for c in one.candidates[::-1])}
            )
        sets.append(one.model_copy(update={"query": one.query.model_copy(update={"images": ("a.png",)})}))
    if form == "votes":
        assert [row.turns[1] for row in compared_rows(sets[1:])] == [words(1), words(4)]  # the first of equal ones
    rows = sets
    if form == "examples":
        rows = [Example.model_validate(to_example(s.model_dump(), 0, len(s.candidates))) for s in sets]
    assert found(world, rows, deduplicate={}) == {i: ("near_duplicate", "of 3-of-three") for i in list(marks)[:2]}


def enumerate_ids(*names):
    return [(str(k), name) for k, name in enumerate(names)]


def test_damaged_rows_are_reported_and_the_rest_is_used(world):
    write_dataset(world / "rows", DUPLICATES)
    lines = (world / "rows" / "shard-00000.jsonl").read_bytes().splitlines(keepends=True)
    broken = [b'{"id": 1}\n', *lines[:4], lines[4][:80] + b"\n", *lines[5:]]  # the first line says nothing of the rest
    (world / "rows" / "shard-00000.jsonl").write_bytes(b"".join(broken))
    assert set(found(world, [], deduplicate={})) == {"1", "4", "8"}
    dropped = [json.loads(line) for line in (world / "out" / "dropped.jsonl").read_bytes().splitlines()]
    assert {d["id"]: d["reason"] for d in dropped} == dict.fromkeys(
        ("shard-00000.jsonl:1", "shard-00000.jsonl:6"), "unreadable_row"
    )
    assert read_json(world / "out" / "manifest.json")["rows_examined"] == len(DUPLICATES) + 1


def test_images_that_cannot_be_used_are_reported_and_the_rest_is_used(world):
    """Each is dropped with its id and reason."""
    (world / "images" / "broken.png").write_bytes((world / "images" / "a.png").read_bytes()[:200])
    (world / "images" / "empty.png").write_bytes(b"")
    (world / "secret.png").write_bytes((world / "images" / "a.png").read_bytes())
    (world / "images" / "link.png").symlink_to(world / "secret.png")
    names = ["a.png", "copy.png", "broken.png", "empty.png", "gone.png", "../secret.png", "link.png", "file:///x.png"]
    rows = [row(str(k), name, "Describe.", words(k)) for k, name in enumerate(names)]
    assert set(found(world, rows, deduplicate={})) == {"1"}
    dropped = [json.loads(line) for line in (world / "out" / "dropped.jsonl").read_bytes().splitlines()]
    reasons = {drop["id"]: drop["reason"] for drop in dropped}
    refused = dict.fromkeys("567", "image_refused")
    assert reasons == {"2": "image_broken", "3": "image_broken", "4": "image_missing"} | refused
    config = {"input": world / "rows", "out_dir": world / "strict", "deduplicate": {}, "cache_dir": world / "cache"}
    with pytest.raises(ValueError, match=r"6 of 8 rows cannot be used \(image_refused 3, .*max_dropped_share"):
        overlap(OverlapConfig(**config, image_folder=world / "images"))
    assert not (world / "strict").exists()
    with pytest.raises(ValueError, match="image_folder is missing"):
        overlap(OverlapConfig(**config))
    picture(9).save(world / "images" / "gone.png")  # mended: it is looked at again
    rows = found(world, rows, "mended", deduplicate={})
    mended = [json.loads(line)["id"] for line in (world / "mended" / "dropped.jsonl").read_bytes().splitlines()]
    assert "4" not in mended and len(mended) == 5


def test_benchmarks_by_image_and_by_words(world):
    tsv = write_tsv(
        world / "Bench.tsv",
        [
            {
                "index": 7,
                "image": as_base64(picture(1)),
                "question": "What color is the car?",
                "A": "red",
                "answer": "A",
            },
            {"index": 8, "image": 7, "question": f"With a\nnew line: {LONG}", "A": "blue", "answer": "A"},
            {"index": 9, "image": "", "question": "Which planet is the largest one?", "A": "Jupiter", "answer": "A"},
            {"index": 10, "image": f"['{as_base64(picture(2), 'PNG')}']", "question": "Is it?", "A": "x" * 200_000},
        ],
    )
    rows = [
        row("near", "b.png", "Describe.", words(20)),
        row("list", "c.png", "Describe.", words(21)),
        row("words", "a.png", f"so {LONG} it is", "yes"),
        row("answer", "a.png", "Is it?", LONG.upper() + "."),
        row("twelve", "a.png", " ".join(LONG.split()[:12]), "yes"),
        row("short", "a.png", "What color is the car?", "red"),  # alone, a short question says nothing
        row("short text", None, "What color is the car?", "red"),
        row("text", None, "which planet is the largest one", "Jupiter"),
    ]
    drops = found(world, rows, decontaminate={"benchmarks": [{"name": "Bench", "path": tsv}]})
    assert set(drops) == {"near", "list", "words", "answer", "text"}
    assert {reason for reason, _ in drops.values()} == {"benchmark_overlap"}
    assert drops["near"][1] == "Bench 7: its image or one near it" and drops["list"][1].startswith(
        "Bench 10: its image"
    )
    assert drops["words"][1] == f"Bench 8: shares {' '.join(LONG.split()[:13])!r}"
    assert drops["text"][1] == "Bench 9: the same question, without an image"


def test_benchmarks_as_folders_and_lines(world):
    (world / "held out" / "deep").mkdir(parents=True)
    picture(0).save(world / "held out" / "deep" / "x.jpg", quality=70)
    lines = [{"id": "q1", "question": LONG, "answer": "B"}, {"question": words(2, 30)}]
    (world / "q.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{broken")
    (world / "q.txt").write_text(f"\n{words(3, 15)}\n")
    rows = [
        row("image", "a2.jpg", "Describe.", words(30)),
        row("one", "b.png", LONG, "B"),
        row("two", "c.png", "Say.", words(2, 30)),
        row("three", "d.png", words(3, 15), "no"),
        row("free", "d.png", words(4, 15), "no"),
    ]
    named = {"P": "held out", "J": "q.jsonl", "T": "q.txt"}
    benchmarks = [{"name": name, "path": world / path} for name, path in named.items()]
    drops = found(world, rows, decontaminate={"benchmarks": benchmarks})
    assert {i: detail.partition(":")[0] for i, (_, detail) in drops.items()} == {
        "image": "P deep/x.jpg",
        "one": "J q1",
        "two": "J 2",
        "three": "T 2",
    }


def test_benchmarks_as_editors_and_tables_write_them(world, caplog):
    """A byte order mark, a null for another name's sake, an id beyond 64 bits, pictures of any kind and name."""
    line = {"index": None, "id": 123456789012345678901, "question": LONG}
    (world / "q.jsonl").write_text(json.dumps(line), encoding="utf-8-sig")
    (world / "q.TXT").write_text("What is it?\n", encoding="utf-8-sig")
    (world / "pictures").mkdir()
    picture(0).save(world / "pictures" / "x.jfif", "JPEG")
    (world / "pictures" / os.fsdecode(b"y\xe9.PNG")).write_bytes(b"")

    def read(name):
        benchmark = Benchmark(name="B", path=world / name)
        return [*read_records(read_benchmark(benchmark, world / "cache", 1), BenchmarkRow)]

    assert [(r.id, r.texts) for r in read("q.jsonl")] == [("123456789012345678901", {"question": LONG})]
    assert [(r.id, r.texts) for r in read("q.TXT")] == [("1", {"question": "What is it?"})]
    assert [(r.id, len(r.hashes)) for r in read("pictures")] == [("x.jfif", 1), ("y\\xe9.PNG", 0)]
    (world / "latin.tsv").write_bytes(b"index\tquestion\n1\tcaf\xe9?\n")
    with pytest.raises(ValueError, match=r"latin\.tsv is not UTF-8 .*; save it as UTF-8"):
        read("latin.tsv")
    assert caplog.text.encode() and "y\\xe9.PNG: the image file is empty" in caplog.text  # a log is UTF-8


def test_forms_of_words_of_a_benchmark_are_no_overlap():
    form = "please answer directly with only the letter of the correct option and nothing else"
    rows = [
        ("B", BenchmarkRow(id=str(k), has_image=True, texts={"question": f"{words(k, 5)} {form}"})) for k in range(9)
    ]
    texts = BenchmarkTexts(rows, 13)
    turn = f"{words(99, 5)} {form}".split()
    assert texts.find([(False, [turn])]) == {}
    assert 0 in BenchmarkTexts(rows[:3], 13).find([(False, [turn])])
    prompt = words_of(CAPTIONING.prompt(Query(id="0", task="captioning"), "cod"))
    ours = [("B", BenchmarkRow(id="0", texts={"question": " ".join(prompt)}))]
    assert BenchmarkTexts(ours, 13).find([(False, [prompt])]) == {}


def test_a_benchmark_is_read_once(world):
    path = write_tsv(world / "B.tsv", [{"index": k, "image": as_base64(picture(k)), "question": "?"} for k in range(3)])
    folder = read_benchmark(Benchmark(name="B", path=path), world / "cache", 1)
    rows = list(read_records(folder, BenchmarkRow))
    assert [len(r.hashes) for r in rows] == [1, 1, 1]
    assert read_benchmark(Benchmark(name="other", path=path), world / "cache", 1) == folder
    (world / "none").mkdir()
    for name, message in (
        ("x.xlsx", "is missing, or not a .tsv"),
        ("gone.tsv", "is missing, or not"),
        ("none", "contains no image"),
    ):
        with pytest.raises(ValueError, match=message):
            read_benchmark(Benchmark(name="B", path=world / name), world / "cache", 1)
    (world / "C.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(ValueError, match="the column `index` is missing"):
        read_benchmark(Benchmark(name="C", path=world / "C.tsv"), world / "cache", 1)


def test_users_files_and_mistakes(world):
    turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": words(1)}]
    lines = [json.dumps({"id": "same", "image": f, "conversations": turns}) for f in ("a.png", "copy.png", "b.png")]
    (world / "theirs.jsonl").write_text("\n".join([*lines, "{cut"]))
    config = {"input": world / "theirs.jsonl", "image_folder": world / "images", "cache_dir": world / "cache"}
    out = overlap(OverlapConfig(**config, out_dir=world / "out", deduplicate={}, max_dropped_share=0.5))
    assert [d.id for d in read_records(out, Dropped)] == ["same~2"]
    assert read_json(out / "manifest.json")["dropped"] == {"malformed_row": 1}
    with pytest.raises(ValueError, match="belongs to another run"):
        overlap(OverlapConfig(**config, out_dir=world / "out", deduplicate={"image_distance": 3}))
    with pytest.raises(ValueError, match="deduplicate and decontaminate are both missing"):
        OverlapConfig(**config, out_dir=world / "out")
    with pytest.raises(ValueError, match="no such dataset folder"):
        open_rows(world / "gone", world / "cache")
