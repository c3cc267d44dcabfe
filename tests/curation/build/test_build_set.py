"""The pre-training set: amounts per source, seeded order, unique ids, nothing lost."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures_and_rows import as_base64, picture, row, words, write_tsv

from sicog.annotation.revise import ReviseConfig, revise
from sicog.chains import COD, COD_QUESTIONS, parse, render
from sicog.config import load_config
from sicog.curation.build.build import BuildConfig, BuildSource, build
from sicog.curation.build.origin import Origin, conversation, qualifies
from sicog.data.amounts import amounts
from sicog.formats import RowError, parse_example, read_llava, reads_back, to_llava
from sicog.records import Dropped, Example, Turn
from sicog.stages.storage import read_json, read_records, write_dataset

CONFIGS = Path(__file__).parents[3] / "quality_evaluation" / "configs"


def example(row_id: str, text: str) -> Example:
    return Example(id=row_id, turns=(Turn(role="user", text="say"), Turn(role="assistant", text=text)))


@pytest.fixture
def folders(tmp_path):
    for name, ids in {"captions": range(20), "reasoning": range(10, 25), "text": ("x", "y", "z")}.items():
        write_dataset(tmp_path / name, [example(str(i), f"{name} {i}") for i in ids], rows_per_shard=7)
    return tmp_path


def run(folder, name="built", seed=0, **amounts):
    sources = tuple(BuildSource(name=n, path=folder / n, **amount) for n, amount in amounts.items())
    out = build(BuildConfig(sources=sources, out_dir=folder / name, seed=seed, rows_per_shard=16))
    return list(read_records(out, Example))


def test_all_rows_come_once_in_seeded_order_under_unique_ids(folders):
    rows = run(folders, captions={}, reasoning={}, text={})
    assert len(rows) == 38 == len({r.id for r in rows})
    assert {r.id for r in rows if r.source == "text"} == {"x", "y", "z"}
    assert {r.id for r in rows if r.source == "captions"} == {
        *map(str, range(10)),
        *(f"captions:{i}" for i in range(10, 20)),
    }
    assert {r.turns[1].text for r in rows} >= {"captions 12", "reasoning 12"}
    assert all(r.turns[1].text == f"{r.source} {r.id.split(':')[-1]}" for r in rows)
    sources = [r.source for r in rows]
    assert sources != sorted(sources)
    manifest = read_json(folders / "built/manifest.json")
    assert manifest["rows_by_source"] == {"captions": 20, "reasoning": 15, "text": 3}
    assert manifest["rows_in"] == manifest["rows_out"] == 38
    assert rows == run(folders, captions={}, reasoning={}, text={})
    assert rows == run(folders, name="again", captions={}, reasoning={}, text={})
    other = run(folders, name="other", seed=1, captions={}, reasoning={}, text={})
    assert rows != other and {r.id for r in rows} == {r.id for r in other}


def test_counts_and_weights(folders):
    rows = run(folders, captions={"count": 5}, reasoning={"weight": 0.2}, text={"weight": 2.5})
    by_source = {name: [r.id for r in rows if r.source == name] for name in ("captions", "reasoning", "text")}
    assert {name: len(ids) for name, ids in by_source.items()} == {"captions": 5, "reasoning": 3, "text": 8}
    assert {"x", "x#2", "y", "y#2", "z", "z#2"} < set(by_source["text"])
    assert sum(i.endswith("#3") for i in by_source["text"]) == 2
    assert len({r.id for r in rows}) == 16
    more = run(folders, name="more", captions={"count": 6}, reasoning={"count": 0}, text={})
    assert {i.split(":")[-1] for i in by_source["captions"]} < {
        r.id.split(":")[-1] for r in more if r.source == "captions"
    }


def test_take_chooses_before_amounts_do(folders):
    rows = run(folders, captions={"take": "first:25%"}, reasoning={"take": "end:4", "count": 2}, text={"take": "all"})
    by_source = {name: {r.turns[1].text for r in rows if r.source == name} for name in ("captions", "reasoning")}
    assert by_source["captions"] == {f"captions {i}" for i in range(5)}
    assert len(by_source["reasoning"]) == 2 and by_source["reasoning"] < {f"reasoning {i}" for i in range(21, 25)}
    drawn = [run(folders, name=f"r{k}", captions=keys) for k, keys in enumerate([{"take": "random:6"}, {"count": 6}])]
    assert drawn[0] == drawn[1]  # by seed and id alone
    with pytest.raises(ValueError, match="text has 3 usable rows, fewer than take 'first:4'"):
        run(folders, name="more", text={"take": "first:4"})


def test_rows_come_in_proportion_to_a_mark(tmp_path):
    given = {str(i): 0.1 + (i % 5) for i in range(200)}
    rows = [example(i, "a").model_copy(update={"extra": {"agreement": m}}) for i, m in given.items()]
    write_dataset(tmp_path / "a", rows)
    for name, amount in (("all", {}), ("half", {"weight": 0.5}), ("thrice", {"weight": 3.0}), ("ten", {"count": 10})):
        drawn = run(tmp_path, name=name, a={**amount, "weight_by": "agreement"})
        wanted = amount.get("count") or 200 * amount.get("weight", 1)
        assert len(drawn) == wanted == len({r.id for r in drawn})
        times = Counter(r.id.split("#")[0] for r in drawn)
        for i, m in given.items():  # as often as its share asks for, rounded down or up
            assert abs(times[i] - wanted * m / sum(given.values())) < 1
    again = [r.id for r in run(tmp_path, name="again", a={"weight_by": "agreement"})]
    assert again == [r.id for r in read_records(tmp_path / "all", Example)]


@pytest.mark.parametrize(
    "mark", [{}, {"agreement": None}, {"agreement": -1.0}, {"agreement": "high"}, {"agreement": 0}]
)
def test_a_row_without_the_mark_is_named(tmp_path, mark):
    write_dataset(tmp_path / "a", [example("x", "a").model_copy(update={"extra": mark})])
    with pytest.raises(ValueError, match="weight_by agreement: row x of .*not a number above 0"):
        run(tmp_path, a={"weight_by": "agreement"})


def test_mistakes_are_sentences(folders):
    with pytest.raises(ValueError, match="source text: count 4, but .* holds 3 rows"):
        run(folders, text={"count": 4})
    with pytest.raises(ValueError, match="count or weight, not both"):
        BuildSource(name="a", path=folders, count=1, weight=1)
    with pytest.raises(ValueError, match="the name a is used twice"):
        source = BuildSource(name="a", path=folders)
        BuildConfig(sources=(source, source), out_dir=folders / "out")
    write_dataset(folders / "twice", [example("1", "a"), example("1", "b")])
    with pytest.raises(ValueError, match=r"shard-00000.jsonl:2: id '1' occurs twice"):
        run(folders, twice={})
    with pytest.raises(ValueError, match="no such dataset folder"):
        run(folders, missing={})


# What follows: shares, other sources, drops, conversations, provenance, LLaVA JSON, kills.


def built(folder, out="built", **config):
    values = {"out_dir": folder / out, "cache_dir": folder / "cache", **config}
    target = build(BuildConfig(**values))
    return list(read_records(target, Example)), read_json(target / "manifest.json"), target


def origins(target):
    return list(read_records(target / "provenance", Origin))


def files(target):
    paths = [p for p in target.rglob("*") if p.is_file() and p.name != "run.json"]
    return {str(p.relative_to(target)): p.read_bytes() for p in paths}


def test_shares_of_a_total_over_a_dataset_and_users_files(folders):
    turns = [{"from": "human", "value": "say"}, {"from": "gpt", "value": "theirs"}]
    lines = [json.dumps({"id": f"u{i // 2}", "conversations": turns, "kept": i}) for i in range(30)]
    broken = [*lines[:9], '{"id": "cut', "\udcff", *lines[9:]]
    (folders / "theirs.jsonl").write_text("\n".join(broken), errors="surrogateescape")
    (folders / "shards").mkdir()
    (folders / "shards" / "a.json").write_text(json.dumps([json.loads(line) for line in lines[:10]]))
    sources = [
        {"name": "captions", "path": folders / "captions", "share": 0.5},
        {"name": "theirs", "path": folders / "theirs.jsonl", "share": 0.3},
        {"name": "more", "path": folders / "shards", "share": 0.2},
    ]
    rows, manifest, target = built(folders, sources=sources, total=35, max_dropped_share=0.1)
    assert manifest["rows_by_source"] == {"captions": 18, "theirs": 10, "more": 7} and len({r.id for r in rows}) == 35
    assert manifest["dropped"] == {"malformed_row": 2} == manifest["dropped_by_source"]["theirs"]
    assert manifest["rows_in"] == 37 and all("kept" in r.extra for r in rows if r.source != "captions")
    assert {o.original_id for o in origins(target) if o.source == "theirs"} <= {
        *(f"u{i}" for i in range(15)),
        *(f"u{i}~2" for i in range(15)),
    }
    with pytest.raises(ValueError, match="2 of 62 rows cannot be used"):
        built(folders, "strict", sources=sources, total=35, max_dropped_share=0.01)
    with pytest.raises(
        ValueError, match="captions: share 0.5 of total 100 is 50 rows, .* holds 20 rows .* total can be 40"
    ):
        built(folders, "short", sources=sources, total=100, max_dropped_share=0.1)
    assert not (folders / "short").exists()
    assert len(built(folders, "all", sources=sources, total=100, max_dropped_share=0.1, when_short="take_all")[0]) == 60
    with pytest.raises(ValueError, match="captions, theirs, more give a share"):
        BuildConfig(sources=sources, out_dir=folders / "out")


def test_damaged_rows_of_a_dataset_are_named_and_the_rest_is_used(folders):
    shard = folders / "captions" / "shard-00001.jsonl"  # rows 7 to 13
    lines = shard.read_bytes().splitlines(keepends=True)
    no_answer = lines[3].replace(b"assistant", b"user")
    shard.write_bytes(b"".join([*lines[:2], b"\xff" + lines[2], no_answer, b'{"id": "11"}\n', lines[5], lines[6][:50]]))
    sources = [{"name": "captions", "path": folders / "captions"}, {"name": "text", "path": folders / "text"}]
    with pytest.raises(ValueError, match=r"4 of 23 rows cannot be used \(unreadable 4\)"):
        built(folders, "strict", sources=sources)
    assert not (folders / "strict").exists()
    rows, manifest, target = built(folders, sources=sources, max_dropped_share=0.2)
    assert {r.id for r in rows} == {*map(str, [*range(9), 12, *range(14, 20)]), "x", "y", "z"}
    dropped = {d["id"]: d["detail"] for d in map(json.loads, (target / "dropped.jsonl").open())}
    assert list(dropped) == [f"shard-00001.jsonl:{n}" for n in (3, 4, 5, 7)]
    assert (
        "turns must alternate" in dropped["shard-00001.jsonl:4"]
        and "turns is missing" in dropped["shard-00001.jsonl:5"]
    )
    assert manifest["rows_in"] == 23 and manifest["dropped_by_source"]["captions"] == {"unreadable_row": 4}
    drops = [Dropped(id=i, step="overlap", reason="near_duplicate") for i in ("0", "9", "19")]
    write_dataset(folders / "found", drops)
    sources[0]["exclude"] = [folders / "found"]  # "9" cannot be read
    common = {"sources": sources, "max_dropped_share": 0.2}
    whole, small = (built(folders, f"by{n}", rows_per_shard=n, **common)[2] for n in (8192, 3))
    assert (whole / "dropped.jsonl").read_bytes() == (small / "dropped.jsonl").read_bytes()
    assert len((whole / "dropped.jsonl").read_text().splitlines()) == 6
    del sources[0]["exclude"]
    counted, _, _ = built(folders, "counted", sources=[{**sources[0], "count": 16}], max_dropped_share=0.2)
    assert len(counted) == 16  # exact: what cannot be read is never drawn
    listed = [Dropped(id="x", step="overlap", reason="near_duplicate")]
    write_dataset(folders / "drops", listed)
    with pytest.raises(ValueError, match=r"shard-00000.jsonl:1 is not an Example .*Another step wrote this folder"):
        run(folders, "other", drops={})


def test_ids_that_would_clash_are_refused(folders):
    write_dataset(folders / "odd", [example("captions:3", "a"), example("3", "b")])
    with pytest.raises(ValueError, match="2 ids cannot be made unique|1 ids cannot be made unique"):
        run(folders, odd={}, captions={})


@pytest.fixture
def pictures(tmp_path):
    """Captions and questions of a few images; one image is there twice, one is gone, one is a benchmark's."""
    folder = tmp_path / "images"
    folder.mkdir()
    for k, name in enumerate("abcde"):
        picture(k).save(folder / f"{name}.png")
    picture(0).save(folder / "again.jpg", quality=80)
    chain = render(COD, ["a cup", "it is red", "it stands", "a wall", "A red cup stands by a wall. " + words(1)])
    marks = {"style": "cod", "index": 1, "seed": 5, "checkpoint": "c0ffee", "k": 3}
    captions = [
        row(
            f"c{k}",
            f"{name}.png",
            "Describe it.",
            chain.replace("wall", f"wall{k} " + words(k)),
            (80 + k) / 100,
            agreement=round((3 * (80 + k) / 100 - 1) / 2, 6),
            **marks,
        )
        for k, name in enumerate("abcde")
    ]
    near = captions[0].model_copy(
        update={"id": "near", "images": ("again.jpg",), "extra": {**marks, "score": 0.99, "agreement": 0.985}}
    )
    gone = captions[1].model_copy(update={"id": "gone", "images": ("gone.png",)})
    write_dataset(tmp_path / "captions", [*captions, near, gone])
    questions = [
        row(f"q{k}", "a.png", f"How many {word}?", "two", k / 10) for k, word in enumerate(("cups", "walls", "dogs"))
    ]
    write_dataset(tmp_path / "questions", [*questions, row("t", None, "Say hello.", "hello")])
    write_dataset(tmp_path / "listed", [Dropped(id="c3", step="overlap", reason="near_duplicate", detail="of x")])
    write_tsv(tmp_path / "B.tsv", [{"index": 5, "image": as_base64(picture(4)), "question": "What is it?"}])
    return tmp_path


def of_pictures(folder, out="built", **more):
    config = {
        "sources": [
            {"name": "captions", "path": folder / "captions", "exclude": [folder / "listed"]},
            {"name": "questions", "path": folder / "questions"},
        ],
        "image_folder": folder / "images",
        "deduplicate": {},
        "decontaminate": {"benchmarks": [{"name": "B", "path": folder / "B.tsv"}]},
        "per_image": 2,
        "multi_turn": {"share": 1.0, "min_score": 0.82},
        "max_dropped_share": 0.2,
    }
    return built(folder, out, **config | more)


def test_rows_are_left_out_with_their_reasons(pictures):
    rows, manifest, target = of_pictures(pictures)
    dropped = {d["id"]: (d["reason"], d["detail"]) for d in map(json.loads, (target / "dropped.jsonl").open())}
    assert {i: reason for i, (reason, _) in dropped.items()} == {
        "c0": "near_duplicate",
        "c3": "near_duplicate",
        "c4": "benchmark_overlap",
        "gone": "image_missing",
        "q0": "image_cap",
    }
    assert dropped["c0"][1] == "captions: of near in captions" and dropped["c3"][1] == "captions: of x (listed)"
    assert {r.id for r in rows} == {"near", "c1", "c2", "q1", "q2", "t"}
    assert manifest["rows_in"] == 11 == manifest["rows_out"] + sum(manifest["dropped"].values())
    assert manifest["dropped_by_source"]["questions"] == {"image_cap": 1}
    assert manifest["rows_by_task"] == {"captioning": 3, "unknown": 3} and manifest["rows_by_style"]["cod"] == 3


@pytest.mark.parametrize(
    ("prompts", "styles"),
    [
        ("task", {"cod": 2, "cot": 2, "dd": 2, "direct": 2}),
        ("row", {"cod-conv": 2, "cot": 2, "plain": 2, "unknown": 2}),  # a plain caption of a row's own question
    ],
)
def test_annotated_rows_have_their_task_and_style(tmp_path, prompts, styles):
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}]
    tags = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
    chain = render(COD, ["A cup."] * 5)
    captions = [{"id": f"c{i}", "image": "a.png", "cod_caption": chain, "conversations": turns} for i in range(2)]
    answer = {"from": "gpt", "value": "".join(f"<{tag}>a</{tag}>" for tag in tags)}
    questions = [{"id": f"q{i}", "image": "a.png", "conversations": [*turns, answer]} for i in range(2)]
    sources = []
    for task, rows, names in (("captioning", captions, ("cod", "dd")), ("reasoning", questions, ("cot", "short"))):
        (tmp_path / f"{task}.json").write_text(json.dumps(rows))
        chains, plain = (tmp_path / name for name in names)
        files = {"input": tmp_path / f"{task}.json", "chain_dir": chains, "plain_dir": plain}
        revise(ReviseConfig(task=task, prompts=prompts, **files))
        sources += [{"name": f"my {path.name}", "path": path} for path in (chains, plain)]
    rows, manifest, _ = built(tmp_path, sources=sources)
    assert manifest["rows_by_style"] == styles
    assert manifest["rows_by_task"] == {"captioning": 4, "reasoning": 4}
    assert not any("style" in row.extra for row in rows)  # the rows themselves stay as they were annotated


def test_the_order_of_rows_changes_none(pictures):
    rows, _, target = of_pictures(pictures)
    for name in ("captions", "questions"):
        order = list(read_records(pictures / name, Example))[::-1]
        (pictures / name).rename(pictures / f"{name} before")
        write_dataset(pictures / name, order, rows_per_shard=2)
    again, _, other = of_pictures(pictures, "again")
    assert again == rows and origins(other) == origins(target)


def test_provenance_tells_where_each_row_comes_from(pictures):
    rows, _, target = of_pictures(pictures)
    found = origins(target)
    assert [o.id for o in found] == [r.id for r in rows]
    one = next(o for o in found if o.id == "c2")
    sha256 = hashlib.sha256((pictures / "images" / "c.png").read_bytes()).hexdigest()
    assert one.model_dump() == {
        **{"id": "c2", "original_id": "c2", "source": "captions", "task": "captioning", "images": ("c.png",)},
        **{"sha256": (sha256,), "repetition": 0, "multi_turn": True, "style": "cod", "checkpoint": "c0ffee"},
        **{"index": 1, "seed": 5, "score": 0.82, "agreement": 0.73, "vote": None, "margin": None, "k": 3},
    }
    text = next(o for o in found if o.id == "t")
    assert (text.sha256, text.images, text.score, text.task) == ((), (), None, None)


def test_chains_are_told_step_by_step_from_a_score_on(pictures):
    rows, manifest, target = of_pictures(pictures)
    by_id = {r.id: r for r in rows}
    assert manifest["multi_turn_rows"] == 2 and len(by_id["c1"].turns) == 2  # 0.81 is too low
    before = {r.id: r for r in read_records(pictures / "captions", Example)}
    for i in ("c2", "near"):
        told = by_id[i]
        assert tuple(t.text for t in told.turns[1::2]) == parse(COD, before[i].turns[1].text)
        assert tuple(t.text for t in told.turns[::2]) == COD_QUESTIONS
        assert [t.images_at for t in told.turns[::2]] == [(0,), (), (), (), ()] and told.extra["multi_turn"] is True


def test_the_share_of_conversations_is_drawn_by_id(tmp_path):
    chain = render(COD, ["a", "b", "c", "d", "e"])
    write_dataset(tmp_path / "in", [row(str(i), None, "Describe.", chain, style="cod") for i in range(400)])
    sources = [{"name": "captions", "path": tmp_path / "in", "weight": 2}]
    rows, manifest, _ = built(tmp_path, sources=sources, multi_turn={"share": 0.25}, llava_json=False)
    told = {r.id for r in rows if len(r.turns) == 10}
    assert 150 < len(told) == manifest["multi_turn_rows"] < 250
    assert {i for i in told if "#" not in i} != {i[:-2] for i in told if "#" in i}
    more, _, target = built(tmp_path, "more", sources=sources, multi_turn={"share": 0.5})
    assert told < {r.id for r in more if len(r.turns) == 10} and (target / "llava.json").is_file()
    kept = row("x", None, "Describe.", "Step 1: no chain", style="cod")
    assert conversation(kept) is None and qualifies(kept, None) and not qualifies(kept, 0.5)
    assert not qualifies(row("x", None, "Describe.", chain, style="dd"), None)


@pytest.mark.parametrize("k", [2, 3, 5, 9])
def test_a_conversation_asks_for_the_agreement_of_a_threshold_at_any_number_of_candidates(k):
    for agreement in (0.774999, 0.775, 0.83):  # min_score 0.85 means 0.775, as a threshold of 0.85 does
        score = round((1 + (k - 1) * agreement) / k, 9)
        kept = row("x", None, "Describe.", "", score, style="cod", k=k)
        both = row("x", None, "Describe.", "", score, style="cod", k=k, agreement=agreement)
        assert qualifies(kept, 0.85) is qualifies(both, 0.85) is (agreement >= 0.775)
    alone = row("x", None, "Describe.", "", 1.0, style="cod", k=1, agreement=None)
    assert qualifies(alone, None) and not qualifies(alone, 0.85)
    assert not any(
        qualifies(row("x", None, "Describe.", "", s, style="cod"), 0.85) for s in ("0.9", True, float("nan"))
    )


def test_llava_json_gives_the_same_examples(pictures):
    odd = [
        row("marker", None, "what is <image> for?", "a marker"),
        row("space", "a.png", " two ", "three"),
        row("fine", None, "a < b?", "<image> is text here"),
    ]
    write_dataset(pictures / "odd", odd)
    rows, manifest, target = built(pictures, sources=[{"name": n, "path": pictures / n} for n in ("odd", "captions")])
    assert sorted(manifest["not_in_llava_json"]) == ["marker", "space"]
    read = list(read_llava(target / "llava.json"))
    kept = [r.model_copy(update={"source": ""}) for r in rows if r.id not in ("marker", "space")]
    assert read == kept and len(kept) == 8
    assert isinstance(json.loads((target / "llava.json").read_text()), list)


@given(st.text("<image>vdeo ab\n", max_size=12), st.booleans(), st.text("<image> \n", max_size=8))
def test_what_is_said_to_read_back_does(asked, has_image, answer):
    one = row("x", "a.png" if has_image else None, asked, answer)
    try:
        back = parse_example(to_llava(one), "x")
    except RowError:
        back = None
    assert reads_back(one) == (back == one)


@pytest.mark.slow
def test_a_build_that_was_killed_resumes_to_the_same_bytes(pictures):
    sources = [{"name": "captions", "path": "captions", "weight": 300}, {"name": "questions", "path": "questions"}]
    config = {"sources": sources, "image_folder": "images", "max_dropped_share": 0.2, "cache_dir": "cache"}
    config |= {"deduplicate": {}, "multi_turn": {"share": 0.5}, "rows_per_shard": 512}
    (pictures / "build.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "sicog", "build", "build.yaml", "out_dir=killed"]
    for delay in (0.0, 0.1):
        process = subprocess.Popen(command, cwd=pictures, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (pictures / "killed" / ".work").exists():
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        process.wait()
    assert subprocess.run(command, cwd=pictures, check=False, stderr=subprocess.DEVNULL).returncode == 0
    command[-1:] = ["out_dir=undisturbed", "workers=2"]
    assert subprocess.run(command, cwd=pictures, check=False, stderr=subprocess.DEVNULL).returncode == 0
    assert files(pictures / "killed") == files(pictures / "undisturbed")


def test_a_full_disk_and_another_config(pictures, monkeypatch):
    _, _, target = of_pictures(pictures)
    before = files(target)
    with pytest.raises(ValueError, match="belongs to another run.*per_image was 2, now 3"):
        of_pictures(pictures, per_image=3)
    assert files(target) == before

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sicog.stages.storage.os.fsync", full)
        with pytest.raises(ValueError, match="the disk is full; nothing was written"):
            of_pictures(pictures, "full")
    assert not (pictures / "full" / "manifest.json").exists()
    of_pictures(pictures, "full")
    assert files(pictures / "full") == before


def test_the_config_of_the_papers_set_is_complete():
    config = load_config(BuildConfig, CONFIGS / "build-213k.yaml", ["out_dir=data/curated", "image_folder=images"])
    shares = [source.share or 0 for source in config.sources]
    assert config.total == 213_000 and abs(sum(shares) - 1) < 1e-9
    assert amounts(config.sources, [213_000] * 3, config.total, config.when_short) == [95_850, 95_850, 21_300]


@pytest.mark.slow
def test_the_lines_of_the_docs_run(pictures):
    """On rows of a few images; the 213k of the config are what there is of them."""
    page = (CONFIGS.parents[1] / "docs" / "curation.md").read_text()
    page = page[page.index("## Building the set") : page.index("## The page")]
    lines = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    data = pictures / "data"
    for task, name in (("captions", "captions"), ("answers", "questions")):
        (data / f"kept-{task}").mkdir(parents=True)
        (pictures / name).rename(data / f"kept-{task}" / "selected")
    (data / "kept-captions" / "scored").symlink_to(data / "kept-captions" / "selected")
    turns = [{"from": "human", "value": "Say goodbye."}, {"from": "gpt", "value": "Goodbye."}]
    (pictures / "text.json").write_text(json.dumps([{"id": "hello", "conversations": turns}]))
    few = " max_dropped_share=0.5 cache_dir=cache"
    block = "".join(lines).replace(" out_dir=data/curated", f" out_dir=data/curated when_short=take_all{few}")
    block = block.replace("deduplicate={}", "deduplicate={}" + few).replace("quality_evaluation", f"'{CONFIGS.parent}'")
    block = re.sub(r"^sicog", f"'{sys.executable}' -m sicog", block, flags=re.MULTILINE)
    done = subprocess.run(["bash", "-euc", block], cwd=pictures, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_json(data / "curated" / "manifest.json")["rows_by_source"] == {"captions": 5, "answers": 4, "text": 1}
    assert [d.id for d in read_records(data / "overlap", Dropped)] == ["c0"]
