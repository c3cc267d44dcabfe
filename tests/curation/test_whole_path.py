"""From files to picks: candidates of several rounds are scored, selected, swept, built and shown, and all agree with
loops that read the files themselves.

Rows have 0 to 10 candidates that can be compared, equal and empty texts among them, ties, and ones that are cut.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict

import numpy as np
import orjson
import pytest

from sicog.curation.build.build import BuildConfig, BuildSource, build
from sicog.curation.build.origin import MultiTurnConfig, Origin
from sicog.curation.score.score import ScoreConfig, score
from sicog.curation.select.select import SelectConfig, select
from sicog.curation.select.sweep import SweepConfig, sweep_scored
from sicog.curation.select.threshold_table import ThresholdsConfig, thresholds
from sicog.records import Example, PreferencePair, ScoredSet
from sicog.report.discover import report_run
from sicog.stages.storage import read_json, read_records, write_dataset

TEXTS = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cup", "dog", "tree", "car")]
CUTS = (0.45, 0.6, 0.8, 0.85, 0.9)
ANSWERS = ("red", "blue", "green")


def vectors(width: int = 3) -> np.ndarray:
    """Of any length, few and narrow, so that all similarities occur; two of them point the same way."""
    drawn = np.abs(np.random.default_rng(5).normal(size=(len(TEXTS), width)))
    drawn[1] = 7 * drawn[0]
    return drawn


def rounds(folder, make, task: str) -> None:
    """Two rounds of candidates, 60 rows in each; rows of one round alone are among them."""
    draw = random.Random(7)
    chain, plain = ("cod", "dd") if task == "captioning" else ("cot", "direct")
    rows = defaultdict(list)
    for row in range(75):
        for number in range(2):
            if (row < 15, row >= 60)[1 - number]:
                continue
            marks = []
            for _ in range((0, 1, 2, 3, 5)[row % 5]):
                said = draw.choice(TEXTS[: 2 + row % 11]) if task == "captioning" else draw.choice(ANSWERS)
                said = f"The answer is {said}." if task == "reasoning" and draw.random() < 0.3 else said
                style = draw.choice((chain, plain))
                whole = said if style == plain else (make.cod if task == "captioning" else make.cot)(said)
                odd = draw.random()
                broken = "  " if odd < 0.08 else "Step 1: only\none" if odd < 0.15 and style == chain else whole
                marks.append((style, broken, "length") if odd > 0.95 else (style, broken))
            found = make.candidate_set(f"row-{row}", task, marks)
            seeded = tuple(c.model_copy(update={"seed": 100 * number + c.index}) for c in found.candidates)
            rows[number].append(found.model_copy(update={"candidates": seeded}))
    for number, sets in rows.items():
        write_dataset(folder / "rounds" / f"{number}", sets, rows_per_shard=17)


def plain_sets(folder) -> dict[str, list[dict]]:
    """What the files hold, row by row: candidates of all rounds, each with the text that is compared, None for out."""
    sets: dict[str, list[dict]] = {}
    for shard in sorted((folder / "rounds").glob("*/shard-*.jsonl")):
        for row in map(orjson.loads, shard.open("rb")):
            for one in row["candidates"]:
                text, last = one["text"].strip(), {"cod": "Step 5: ", "cot": "Step 4: "}.get(one["style"])
                if last:
                    text = text.partition(last)[2].partition("\n")[2].strip()
                usable = text and one["finish_reason"] == "stop"
                sets.setdefault(row["id"], []).append({**one, "compared": text if usable else None})
            sets.setdefault(row["id"], [])
    return sets


def plain_marks(sets) -> dict[str, tuple[list[float | None], list[float | None]]]:
    """By row: score and agreement of each candidate, None for those that are out."""
    units = {t: [x / math.hypot(*v) for x in v] for t, v in zip(TEXTS, vectors().tolist(), strict=True)}
    found = {}
    for row_id, row in sets.items():
        kept = [c["compared"] for c in row if c["compared"] is not None]
        scores, agreements = [], []
        for candidate in row:
            if (text := candidate["compared"]) is None:
                scores.append(None)
                agreements.append(None)
                continue
            total = 0.0
            for other in kept:
                total += sum(a * b for a, b in zip(units[text], units[other], strict=True))
            scores.append(total / len(kept))
            agreements.append((total - 1) / (len(kept) - 1) if len(kept) > 1 else None)
        found[row_id] = (scores, agreements)
    return found


def plain_votes(sets) -> dict[str, list[float | None]]:
    found = {}
    for row_id, row in sets.items():
        said = [None if (t := c["compared"]) is None else t.removeprefix("The answer is ").rstrip(".") for c in row]
        kept = [s for s in said if s is not None]
        found[row_id] = [None if s is None else kept.count(s) / len(kept) for s in said]
    return found


def plain_pick(marks) -> int | None:
    """The first of the highest, to six digits."""
    best = None
    for i, mark in enumerate(marks):
        if mark is not None and (best is None or round(mark, 6) > round(marks[best], 6)):
            best = i
    return best


def plain_kept(marks, threshold: float, k0: int = 3, fewest: int = 3) -> dict[str, int]:
    """The kept rows and their picks: a share among K means an agreement of (K share - 1) / (K - 1)."""
    kept = {}
    for row_id, shares in marks.items():
        pick, k = plain_pick(shares), sum(s is not None for s in shares)
        if k < fewest or pick is None:
            continue
        if (k * shares[pick] - 1) / (k - 1) >= (k0 * threshold - 1) / (k0 - 1) - 1e-6:
            kept[row_id] = pick
    return kept


@pytest.fixture(scope="module", params=["score", "vote"])
def scored(request, tmp_path_factory, make):
    """(by, folder, marks): what `sicog score` made of the rounds, and the marks that loops find."""
    by, folder = request.param, tmp_path_factory.mktemp("path")
    task = "captioning" if by == "score" else "reasoning"
    rounds(folder, make, task)
    np.savez(folder / "vectors.npz", texts=np.array(TEXTS), vectors=vectors())
    given = {"scorer": "answer"} if by == "vote" else {"encoder": {"kind": "file", "path": folder / "vectors.npz"}}
    config = {"input": [folder / "rounds" / "*"], "out_dir": folder / "scored", "cache_dir": folder / "cache", **given}
    score(ScoreConfig(**config, rows_per_shard=32, block_size=8))
    sets = plain_sets(folder)
    marks = plain_votes(sets) if by == "vote" else {i: found for i, (found, _) in plain_marks(sets).items()}
    assert {sum(s is not None for s in row) for row in marks.values()} >= {0, 1, 2, 3, 4, 5, 6, 9}
    return by, folder, marks


def test_scores_are_those_of_the_loop(scored):
    by, folder, marks = scored
    rows = {row.id: row.candidates for row in read_records(folder / "scored", ScoredSet)}
    assert list(rows) == list(marks)
    others = {} if by == "vote" else {i: found for i, (_, found) in plain_marks(plain_sets(folder)).items()}
    for row_id, expected in marks.items():
        assert [getattr(c, by) for c in rows[row_id]] == pytest.approx(expected, abs=1e-6)
        if others:
            assert [c.agreement for c in rows[row_id]] == pytest.approx(others[row_id], abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"threshold_k": 6, "min_candidates": 2}])
def test_select_thresholds_and_the_sweep_keep_the_rows_of_the_loop(scored, tmp_path, options):
    by, folder, marks = scored
    k0, fewest = options.get("threshold_k", 3), options.get("min_candidates", 3)
    table = thresholds(ThresholdsConfig(input=folder / "scored", by=by, cuts=CUTS, **options))["table"]
    swept = SweepConfig(input=folder / "scored", out_dir=tmp_path / "swept", by=by, **options)
    cuts = read_json(sweep_scored(swept, lambda query, text: 1.0))["table"]
    places = {
        row.id: [(c.candidate.style, c.candidate.seed) for c in row.candidates]
        for row in read_records(folder / "scored", ScoredSet)
    }
    for cut, line in zip(CUTS, table, strict=True):
        expected = plain_kept(marks, cut, k0, fewest)
        out = tmp_path / f"{cut}"
        select(SelectConfig(input=folder / "scored", out_dir=out, by=by, threshold=cut, rows_per_shard=16, **options))
        rows = list(read_records(out, Example))
        assert {r.id: places[r.id].index((r.extra["style"], r.extra["seed"])) for r in rows} == expected
        assert line["rows_kept"] == len(expected)
        assert next((c["rows_kept"] for c in cuts if c["threshold"] >= cut - 1e-6), 0) == len(expected)
        for row in rows:
            assert row.extra["k"] == sum(s is not None for s in marks[row.id])
            assert row.extra[by] == pytest.approx(marks[row.id][expected[row.id]], abs=1e-6)
        for pair in read_records(out / "pairs", PreferencePair):
            assert pair.chosen_score == pytest.approx(marks[pair.id][expected[pair.id]], abs=1e-6)
            assert pair.margin == pytest.approx(pair.chosen_score - pair.rejected_score, abs=1e-8) and pair.margin > 0
    assert 0 < len(plain_kept(marks, CUTS[-1], k0, fewest)) < len(plain_kept(marks, CUTS[0], k0, fewest)) < 60


def test_the_page_keeps_the_same_rows_at_every_place_of_its_threshold(scored, tmp_path):
    by, folder, marks = scored
    open_cuts = results(report_run(folder / "scored", tmp_path / "open"))["cuts"]
    for cut in CUTS[1::3]:
        expected = len(plain_kept(marks, cut))
        select(SelectConfig(input=folder / "scored", out_dir=tmp_path / f"{cut}", by=by, threshold=cut))
        found = results(report_run(tmp_path / f"{cut}", tmp_path / f"page-{cut}"))
        cuts = found["cuts"]
        assert cuts["cuts"][cuts["at"]] == pytest.approx(cut)
        assert found["kept"] == expected == kept_from(cuts, cuts["at"])
        for row in read_json(tmp_path / f"page-{cut}" / "results.json")["examples"]:
            if row["state"] == "kept":
                assert row["chosen"] == plain_pick(marks[row["id"]])
        assert (cuts["rows"], cuts["fixed"]) == (open_cuts["rows"], open_cuts["fixed"])
    for place in range(0, len(open_cuts["cuts"]), 7):
        assert kept_from(open_cuts, place) == len(plain_kept(marks, open_cuts["cuts"][place]))
    half = open_cuts["at"]
    line = thresholds(ThresholdsConfig(input=folder / "scored", by=by, cuts=(open_cuts["cuts"][half],)))["table"][0]
    total = sum(sum(style["sum"][half:]) for style in open_cuts["styles"].values())
    assert line[f"mean_{by}"] == pytest.approx(total / line["rows_kept"], abs=1e-5)


def results(out):
    (found,) = read_json(out / "results.json")["curation"].values()
    return found


def kept_from(cuts, place) -> int:
    return sum(sum(style["rows"][place:]) for style in cuts["styles"].values())


@pytest.mark.parametrize("cut", [0.85, 0.93])
@pytest.mark.parametrize("scored", ["score"], indirect=True)
def test_conversations_are_the_chains_that_select_would_keep_at_that_threshold(scored, tmp_path, cut):
    _, folder, marks = scored
    select(SelectConfig(input=folder / "scored", out_dir=tmp_path / "kept", threshold=0.3, min_candidates=2))
    source = BuildSource(name="captions", path=tmp_path / "kept")
    told = MultiTurnConfig(share=1.0, min_score=cut)
    out = build(BuildConfig(sources=(source,), out_dir=tmp_path / "built", multi_turn=told, cache_dir=tmp_path / "c"))
    rows = {row.id: row for row in read_records(tmp_path / "kept", Example)}
    expected = {i for i in plain_kept(marks, cut, fewest=2) if rows[i].extra["style"] == "cod"}
    assert {row.id for row in read_records(out, Example) if len(row.turns) == 10} == expected
    assert 0 < len(expected) < sum(row.extra["style"] == "cod" for row in rows.values())
    for origin in read_records(out / "provenance", Origin):
        names = ("style", "index", "seed", "checkpoint", "score", "agreement", "vote", "margin", "k")
        assert {n: getattr(origin, n) for n in names} == {n: rows[origin.original_id].extra[n] for n in names}
        assert origin.multi_turn is (origin.id in expected)
