"""The page in a real Chromium, opened from the disk: filters, threshold, keys, links, slices; and nothing runs that
the data brings along."""

import json
import random
import shutil

import numpy as np
import orjson
import pytest
from PIL import Image
from report.chromium import started
from report.fake_run import fake_run

from sicog.curation.select.select import SelectConfig, select
from sicog.model.slicing import plan_slices
from sicog.records import Candidate, Claim, Example, Query, ScoredCandidate, ScoredSet
from sicog.report.discover import report_run
from sicog.report.write import ReportConfig, report
from sicog.stages.storage import read_json, read_records, write_dataset

EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'></script><!-- \u2028 ]]> {{ 7*7 }}"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    yield from started(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(page, results) of a fake run; its first 24 images are in the page, those of the rows after them beside it."""
    values = fake_run(tmp_path_factory.mktemp("run"), images=40, items=20)
    out = report(ReportConfig(**values, examples=6))
    return out / "report.html", read_json(out / "results.json")


def opened(chromium, page, fragment="", **how):
    chromium.open(page, fragment, **how)
    chromium.until("return index.places === null && document.querySelector('.row-head') !== null")
    return chromium


def shown_row(chromium):
    return chromium.words(".row-head h3")


def test_it_opens_without_a_complaint_and_shows_every_row(chromium, run):
    page, results = run
    opened(chromium, page)
    rows = results["rows"]
    assert rows == 120 and chromium.words(".told-rows") == "All 120 rows"
    assert chromium.do("return document.querySelectorAll('.threshold input').length") == 2
    assert chromium.words(".candidate.best .words") and chromium.do("return document.images.length") == 1
    assert chromium.complaints() == []
    chromium.picture("report-top")


def test_filters_and_sorting(chromium, run):
    page, results = run
    opened(chromium, page)
    kept = results["curation"]["captions"]["kept"]
    chromium.choose("filter-set", "captions")
    assert chromium.words(".told-rows") == "40 of 120 rows"
    chromium.choose("filter-state", "kept")
    assert chromium.words(".told-rows") == f"{kept} of 120 rows"
    chromium.choose("filter-order", "score-up")
    values = chromium.do("return [...document.querySelectorAll('.line .number')].map((n) => Number(n.textContent))")
    assert values == sorted(values) and len(values) > 3
    low = values[2]
    chromium.choose("filter-low", str(low))
    left = chromium.do("return [...document.querySelectorAll('.line .number')].map((n) => Number(n.textContent))")
    assert left and all(v >= low - 5e-4 for v in left)
    chromium.do("document.querySelector('.fields button').click()")
    assert chromium.words(".told-rows") == "All 120 rows"
    chromium.choose("filter-reason", "low_consistency")
    dropped = sum(task["cuts"]["rows"] - task["kept"] for task in results["curation"].values())
    assert chromium.words(".told-rows") == f"{dropped} of 120 rows"
    assert "low consistency" in chromium.words(".row-head")
    chromium.choose("filter-style", "dd")
    assert {
        s for s in chromium.do("return [...document.querySelectorAll('.line .style')].map((s) => s.textContent)")
    } == {"dd"}


def test_a_search_finds_ids_and_texts(chromium, run):
    page, results = run
    opened(chromium, page)
    chromium.choose("filter-words", "00007-q1")
    chromium.until("return document.querySelector('.told-rows').textContent.startsWith('1 of')")
    assert shown_row(chromium) == "unlabelled-00007-q1"
    chromium.choose("filter-words", "alert('r13')")  # only in the texts of every tenth caption
    chromium.until("return document.querySelector('.told-rows').textContent.startsWith('4 of')")
    chromium.choose("filter-words", "no such words")
    chromium.until("return document.querySelector('.told-rows').textContent.startsWith('0 of')")
    assert chromium.words(".detail") == "No row is like that."


def test_the_threshold_moves_and_tells_what_it_would_keep(chromium, run):
    page, results = run
    opened(chromium, page)
    cuts = results["curation"]["captions"]["cuts"]
    said = chromium.words(".threshold .would")
    in_use = sum(sum(s["rows"][cuts["at"] :]) for s in cuts["styles"].values())
    assert f"kept {in_use} " in said and "in use" in said
    place = cuts["at"] // 2
    chromium.do(
        "const slider = document.querySelector('.threshold input'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input'))",
        place,
    )
    kept = {style: sum(s["rows"][place:]) for style, s in cuts["styles"].items()}
    total = sum(kept.values())
    mean = sum(sum(s["sum"][place:]) for s in cuts["styles"].values()) / total
    said = chromium.words(".threshold .would")
    assert f"threshold {cuts['cuts'][place]:.4f} kept {total} " in said and f"mean score {mean:.3f}" in said
    truth = sum(sum(s["truth"][place:]) for s in cuts["styles"].values()) / total
    assert f"mean truth {truth:.3f}" in said
    for style, n in kept.items():
        assert f"{style} {100 * n / total:.1f}".removesuffix(".0") in chromium.words(".threshold .mix-bar")
    chromium.do("document.getElementById('scores').scrollIntoView()")
    chromium.picture("report-threshold")
    chromium.do("document.querySelector('.threshold .buttons button').click()")  # look at these rows
    assert chromium.words(".told-rows") == f"{total} of 120 rows"
    # The keys of the slider are its own.
    chromium.do("document.querySelector('.threshold input').focus()")
    before = shown_row(chromium)
    chromium.press("ARROW_RIGHT")
    assert shown_row(chromium) == before
    assert chromium.do("return Number(document.querySelector('.threshold input').value)") == place + 1


def test_keys_turn_to_the_next_row_and_its_address_leads_back(chromium, run):
    page, _ = run
    opened(chromium, page)
    ids = chromium.do("return index.ids.slice(0, 3)")
    chromium.press("ARROW_RIGHT")
    chromium.press("ARROW_RIGHT")
    assert shown_row(chromium) == ids[2]
    chromium.press("ARROW_LEFT")
    assert shown_row(chromium) == ids[1] and chromium.words(".pager span") == "2 / 120"
    assert chromium.do("return location.hash") == f"#row={ids[1]}"
    chromium.do("document.querySelector('.list').focus()")
    chromium.press("ARROW_DOWN")
    assert shown_row(chromium) == ids[2]
    assert chromium.do("return document.querySelector('.line[aria-selected=true] .name').textContent") == ids[2]
    last = chromium.do("return index.ids.at(-1)")  # not in the sample: its texts come from the file beside the page
    opened(chromium, page, f"#row={last}")
    chromium.until(f"return document.querySelector('.row-head h3').textContent === {json.dumps(last)}")
    chromium.do("location.hash = arguments[0]", f"row={ids[0]}")
    chromium.until(f"return document.querySelector('.row-head h3').textContent === {json.dumps(ids[0])}")
    opened(chromium, page, "#row=nobody")
    assert "There is no row nobody" in chromium.words(".told-rows")
    assert chromium.complaints() == []


def test_differing_words_are_marked_and_steps_are_folded(chromium, run):
    page, _ = run
    opened(chromium, page)
    found = chromium.do(
        "return [differences('a big, red dog', 'A red dog ran'), differences('x', ''),"
        "chainSteps('Step 1: Look.\\nOne.\\n\\nTwo.\\n\\nStep 2: Say.\\nDone')]"
    )
    assert [piece for piece, differs in found[0] if differs] == ["big,"]
    assert "".join(piece for piece, _ in found[0]) == "a big, red dog" and found[1] == [["x", True]]
    assert found[2] == [["Look.", "One.\n\nTwo."], ["Say.", "Done"]]
    assert chromium.do("return document.querySelectorAll('.candidate:not(.best) mark').length") > 0
    assert chromium.do("return document.querySelectorAll('.candidate.best mark').length") == 0
    folded = "return [...document.querySelectorAll('.candidate details')].map((d) => d.open)"
    assert chromium.do(folded) and not any(chromium.do(folded))
    assert "4 steps before it" in chromium.words(".candidate details summary")


def test_claims_are_coloured_by_support_and_rows_found_by_their_weakest(chromium, tmp_path):
    text = "A red car stands here. A dog runs."
    spans = ((0, 22, (1.0, 0.5)), (23, 34, (0.0, 0.5)), (2, 9, (0.25, 0.5)))

    def scored(row_id, number):
        claims = tuple(
            Claim(kind="x", key=text[a:b], start=a, end=b, stated_by=(0,), support=s[number]) for a, b, s in spans
        )
        row = scored_set(row_id, None, [text] * 3)
        return row.model_copy(
            update={"candidates": tuple(c.model_copy(update={"claims": claims}) for c in row.candidates)}
        )

    write_dataset(tmp_path / "scored", [scored("weak", 0), scored("even", 1)])
    claims = [{"kind": "x", "key": "A dog runs.", "support": 0.0, "seen": None, "stated_by": [0]}]
    turns = [{"role": "user", "text": "?"}, {"role": "assistant", "text": "A dog runs."}]
    merged = {"id": "weak", "turns": turns, "extra": {"style": "dd", "claims": claims}}
    write_dataset(tmp_path / "merged", [Example.model_validate(merged)])
    config = ReportConfig(
        captions={"scored": tmp_path / "scored"}, rows={"merged": tmp_path / "merged"}, out_dir=tmp_path / "r"
    )
    opened(chromium, report(config) / "report.html", "#row=weak&set=captions")
    pieces = chromium.do(
        "return [...document.querySelectorAll('.candidate.best .claim')].map((e) => [e.textContent, e.title])"
    )
    assert pieces[:4] == [
        ["A ", "stated by 100 % of the others"],
        ["red car", "stated by 25 % of the others"],
        [" stands here.", "stated by 100 % of the others"],
        ["A dog runs.", "stated by 0 % of the others"],
    ]
    colour = "return getComputedStyle(document.querySelectorAll('.candidate.best .claim')[{}]).backgroundColor"
    assert chromium.do(colour.format(0)) != chromium.do(colour.format(3))
    chromium.choose("filter-weakest", "0.4")
    chromium.until("return document.querySelector('.told-rows').textContent.startsWith('2 of')")
    chromium.choose("filter-weakest", "0.6")
    chromium.until("return document.querySelector('.told-rows').textContent.startsWith('All 3')")
    opened(chromium, tmp_path / "r" / "report.html", "#row=weak&set=merged")
    assert chromium.words(".claims") == "A dog runs."


def test_slices_are_planned_as_the_model_plans_them(chromium, run):
    rng = random.Random(0)
    sizes = [(rng.randint(1, 3000), rng.randint(1, 3000)) for _ in range(3000)]
    sizes += [(n, n) for n in range(300, 1200, 7)] + [(2 * n, 3 * n) for n in range(100, 600, 7)]
    sizes += [(3 * n, 2 * n) for n in range(100, 600, 7)] + [(1, 20000), (20000, 1), (336, 336), (337, 336)]
    opened(chromium, run[0])
    for settings in (
        {"scale": 336, "patch_size": 14, "max_slices": 7},
        {"scale": 112, "patch_size": 14, "max_slices": 9},
    ):
        ours = chromium.do(
            "return arguments[0].map(([w, h]) => planSlices(w, h, arguments[1]))"
            ".map((p) => [p.thumbnail, p.grid, p.slice])",
            sizes,
            settings,
        )
        for (width, height), plan in zip(sizes, ours, strict=True):
            theirs = plan_slices(width, height, **settings)
            expected = [theirs.thumbnail_size, theirs.grid, theirs.slice_size]
            assert plan == [list(v) if v else None for v in expected], (width, height)


def test_a_picture_shows_its_slices_when_asked(chromium, run, tmp_path):
    page, _ = run
    copied = tmp_path / "moved" / "run"
    shutil.copytree(page.parents[1] / "data", copied / "data")
    shutil.copytree(page.parent, copied / "report")
    ids = read_json(page.parent / "results.json")["examples"]
    inside = {text["images"][0] for text in ids}
    beside = next(f"unlabelled-{i:05d}" for i in range(40) if f"images/unlabelled/{i:05d}.png" not in inside)
    file = copied / "data" / "images" / "unlabelled" / f"{beside[-5:]}.png"
    Image.fromarray(np.full((800, 1200, 3), 180, np.uint8)).save(file)
    opened(chromium, copied / "report" / "report.html", f"#row={beside}")
    chromium.until("return document.querySelector('.frame img')?.naturalWidth === 1200")
    assert chromium.do("return document.querySelectorAll('.slice').length") == 0
    chromium.do("document.getElementById('show-slices').click()")
    plan = plan_slices(1200, 800)
    assert chromium.do("return document.querySelectorAll('.slice').length") == plan.n_slices == 6
    assert f"{plan.grid[0]} × {plan.grid[1]} slices of {plan.slice_size[0]} × {plan.slice_size[1]}" in chromium.words(
        ".told"
    )
    box = chromium.do(
        "const [s, i] = ['.slices', '.frame img'].map((q) => document.querySelector(q).getBoundingClientRect());"
        "return [s.width - i.width, s.height - i.height, s.left - i.left, s.top - i.top]"
    )
    assert all(abs(x) < 1 for x in box)
    chromium.picture("report-slices")
    file.unlink()
    opened(chromium, copied / "report" / "report.html", f"#row={beside}")
    chromium.until("return document.querySelector('.no-picture') !== null")
    assert "no picture" in chromium.words(".frame")


def test_a_page_that_is_passed_on_alone_shows_its_sample(chromium, run, tmp_path):
    page = shutil.copy(run[0], tmp_path / "report.html")
    chromium.open(tmp_path / "report.html")
    chromium.until("return document.querySelector('.told-rows').textContent.includes('holds itself')")
    assert "6 rows that this page holds itself, of 120" in chromium.words(".told-rows")
    chromium.press("ARROW_RIGHT")
    assert chromium.words(".pager span") == "2 / 6" and chromium.words(".candidate .words")
    assert chromium.do("return document.images[0].naturalWidth") > 0
    chromium.choose("filter-words", "unlabelled")
    chromium.until("return document.querySelector('.told-rows').textContent.includes('6 rows')")
    assert page


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_scrolling_sideways(chromium, run, dark):
    opened(chromium, run[0], size=(390, 844), dark=dark)
    assert chromium.do("return document.documentElement.scrollWidth") <= 390
    paper, ink = chromium.do(
        "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    )
    light = [sum(int(x) for x in colour[4:-1].split(",")) for colour in (paper, ink)]
    assert (light[0] < 120 < 500 < light[1]) if dark else (light[1] < 150 < 600 < light[0])
    chromium.do("document.getElementById('rows').scrollIntoView()")
    chromium.picture(f"report-phone-{'dark' if dark else 'light'}")
    assert chromium.complaints() == []


def scored_set(row_id, image, texts, task="captioning", encoder="e", style="dd"):
    query = Query(id=row_id, task=task, images=(image,) if image else (), question=texts[0])
    of = [
        Candidate(
            query_id=row_id,
            style=style,
            prompt="p",
            index=i,
            seed=0,
            text=text,
            finish_reason="stop",
            n_tokens=1,
            checkpoint="c",
        )
        for i, text in enumerate(texts)
    ]
    scored = [
        ScoredCandidate(candidate=c, compared=c.text, score=0.9 - i / 10, agreement=0.85 - i / 10, answer=c.text)
        for i, c in enumerate(of)
    ]
    return ScoredSet(id=row_id, query=query, candidates=tuple(scored), encoder=encoder)


def test_nothing_that_the_data_holds_is_ever_run(chromium, tmp_path):
    """In texts, ids, paths, styles, reasons, names of encoders, sets and steps."""
    names = [
        f"images/{EVIL}.png",
        "javascript:window.hacked=1",
        "../../x.png",
        "data:text/html,<script>hacked=1</script>",
        "/etc/x",
    ]
    rows = [
        scored_set(f"{i}{EVIL}", name, [EVIL, EVIL + " a", EVIL], encoder=EVIL, style=EVIL)
        for i, name in enumerate(names)
    ]
    scored, selected = tmp_path / "scored", tmp_path / "selected"
    write_dataset(scored, rows)
    select(SelectConfig(input=scored, out_dir=selected, threshold=0.99))
    drops = [{"id": row.id, "step": EVIL, "reason": EVIL, "detail": EVIL} for row in rows]
    (selected / "dropped.jsonl").write_bytes(b"".join(orjson.dumps(d) + b"\n" for d in drops))
    (tmp_path / "images").mkdir()
    out = report(
        ReportConfig(
            out_dir=tmp_path / "report",
            title=EVIL,
            sets={EVIL: {"scored": scored, "selected": selected}},
            image_folder=tmp_path / "images",
            funnel=["selected"],
            times=(EVIL,),
            examples=1,
        )
    )
    opened(chromium, out / "report.html")
    for row in rows:
        chromium.until(f"return document.querySelector('.row-head h3').textContent === {json.dumps(row.id)}")
        assert EVIL in chromium.do("return document.querySelector('.candidate .words').textContent")
        assert chromium.do("return document.querySelector('.state').textContent").count(EVIL) >= 2
        chromium.press("ARROW_RIGHT")
    chromium.do("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    assert chromium.do("return document.querySelector('.extra').textContent") == f"where it comes fromencoder{EVIL}"
    sources = chromium.do(
        "const seen = []; for (let i = 0; i < 5; i++) { document.querySelector('.pager button').click() }"
        "return [...document.querySelectorAll('img, a[href], script[src]')].map((n) => n.src || n.href)"
    )
    page = (out / "report.html").as_uri()
    assert all(s.startswith((page, (tmp_path / "images").as_uri())) for s in sources)
    refused = chromium.do("return arguments[0].map(linkable)", names)
    assert refused == [True, False, False, False, False]
    assert chromium.do("return window.hacked === undefined && document.scripts.length === 2")
    assert [c for c in chromium.complaints() if "ERR_FILE_NOT_FOUND" not in c] == []


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_many_rows_stay_quick(chromium, tmp_path, n):
    rng = np.random.default_rng(0)
    scores = rng.beta(12, 2, n).round(6)
    one = orjson.loads(scored_set("ID", "images/x.png", ["a small caption of words"] * 3).model_dump_json())
    one = (
        orjson.dumps(one)
        .replace(b'"score":0.9,', b'"score":SCORE,')
        .replace(b'"agreement":0.85,', b'"agreement":SCORE,')
    )
    (tmp_path / "scored").mkdir()
    with (tmp_path / "scored" / "shard-00000.jsonl").open("wb") as file:
        for i in range(n):
            file.write(one.replace(b"ID", b"row-%06d" % i).replace(b"SCORE", b"%.6f" % scores[i]) + b"\n")
    (tmp_path / "scored" / "manifest.json").write_text(
        json.dumps({"rows_in": n, "rows_out": n, "dropped": {}, "failed": {}})
    )
    out = report_run(tmp_path / "scored")
    assert (out / "report.html").stat().st_size < 250_000
    assert (out / "rows" / "index.js").stat().st_size < 40 * n
    assert len(list((out / "rows").iterdir())) == n // 200 + 1
    opened(chromium, out / "report.html")
    assert chromium.words(".told-rows") == f"All {n:,} rows"
    spent = chromium.do(
        "const times = {};"
        "const time = (name, act) => { const t = performance.now(); act(); times[name] = performance.now() - t };"
        "const pick = (id, value, kind) => {"
        " const field = document.getElementById(id); field.value = value; field.dispatchEvent(new Event(kind)) };"
        "time('filter', () => pick('filter-low', '0.9', 'input'));"
        "time('sort', () => pick('filter-order', 'score-down', 'change'));"
        "const slider = document.querySelector('.threshold input');"
        "time('threshold', () => { slider.value = 40; slider.dispatchEvent(new Event('input')) });"
        "const list = document.querySelector('.list');"
        "time('scroll', () => { list.scrollTop = 1e6; list.dispatchEvent(new Event('scroll')) });"
        "return times"
    )
    values = (2 * scores + 1) / 3
    assert chromium.words(".told-rows") == f"{int((values >= 0.9).sum()):,} of {n:,} rows"
    assert all(ms < 1000 for ms in spent.values()), spent  # tens of milliseconds each where nothing else runs
    assert chromium.do("return document.querySelectorAll('.line').length") < 60
    opened(chromium, out / "report.html", f"#row=row-{n - 1:06d}")
    chromium.until(f"return document.querySelector('.row-head h3').textContent === 'row-{n - 1:06d}'")
    assert "a small caption" in chromium.words(".candidate .words")
    print({name: round(ms) for name, ms in spent.items()})
    assert chromium.complaints() == []


def test_a_selected_row_of_a_later_step_has_its_marks(tmp_path):
    """What `select` writes into `extra` comes back as the chosen candidate, whichever keys it holds."""
    rows = [scored_set("a", None, ["one", "two", "three"])]
    write_dataset(tmp_path / "scored", rows)
    selected = select(SelectConfig(input=tmp_path / "scored", out_dir=tmp_path / "selected", threshold=0.1))
    out = report_run(selected)
    (example,) = read_json(out / "results.json")["examples"]
    assert (example["chosen"], example["state"]) == (0, "kept")
    assert example["candidates"][0]["agreement"] == 0.85
    assert list(read_records(tmp_path / "scored", ScoredSet)) == rows
