"""teacher.py and estimate.py: captions to warm-up examples through a real local server that misbehaves."""

import json
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from fake_endpoint import Endpoint, serving
from PIL import Image
from warm_sicog import warm_sicog

from sicog.annotation.revise import ReviseConfig, print_estimate, revise
from sicog.annotation.teacher import BadAnswer, TeacherConfig, checked_bodies, load_prompt
from sicog.chains import COD, parse, render
from sicog.records import Example
from sicog.remote.budget import BudgetReached
from sicog.remote.store import Answer
from sicog.stages.storage import read_json, read_records

ROOT = Path(__file__).parents[2]
KEY = "sk-very-secret-0123456789"
PROMPT = load_prompt("cod-v1")


def bodies(name):
    return (
        f"A picture called {name}.",
        "It is a plain gradient.",
        "It fills the whole frame.",
        "Nothing stands in the corners.",
        f"The picture called {name} shows a plain gradient.\n\nIt fills the frame from edge to edge.",
    )


def teacher(body):
    """The chain for the caption that the request names."""
    text = body["messages"][1]["content"][0]["text"]
    return render(COD, bodies(text.split("Short description: ")[1]))


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(Endpoint(teacher)) as served:
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        yield served


def write_rows(folder, n, **more):
    (folder / "images").mkdir(exist_ok=True)
    rows = []
    for i in range(n):
        Image.new("RGB", (32, 24), (i % 256, 0, 0)).save(folder / "images" / f"{i}.png")
        turns = [{"from": "human", "value": "<image>\nWhat is there?"}, {"from": "gpt", "value": "x"}]
        row = {"id": i, "image": f"{i}.png", "caption": f"c{i}", "url": f"u{i}", "conversations": turns}
        rows.append({**row, **more.get(f"row{i}", {})})
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))


def config(folder, n=None, endpoint=None, **changes):
    if n is not None:
        write_rows(folder, n)
    settings = {"model": "m", "timeout_s": 20, **(endpoint or {})}
    paths = {"input": folder / "in.jsonl", "chain_dir": folder / "cod", "plain_dir": folder / "dd"}
    own = {k: changes.pop(k) for k in list(changes) if k in TeacherConfig.model_fields}
    return ReviseConfig(
        task="captioning", image_folder=folder / "images", **paths, teacher={"endpoint": settings, **own}, **changes
    )


def examples(folder):
    return {e.id: e for e in read_records(folder, Example)}


def failed(folder):
    rows = (folder / "cod-teacher" / "rows" / "failed.jsonl").read_text().splitlines()
    return {row["id"]: row for row in map(json.loads, rows)}


def files_of(folder, *parts):
    return {
        p.relative_to(folder): p.read_bytes()
        for part in parts
        for p in (folder / part).rglob("*")
        if p.is_file() and p.name != "run.json"
    }


def test_images_may_lie_in_a_tar(endpoint, tmp_path):
    settings = config(tmp_path, 2)
    revise(settings)
    with tarfile.open(tmp_path / "images.tar", "w") as packed:
        packed.add(tmp_path / "images" / "0.png", "0.png")
    folders = {"chain_dir": tmp_path / "of-tar" / "cod", "plain_dir": tmp_path / "of-tar" / "dd"}
    again = {"image_folder": tmp_path / "images.tar", "max_dropped_share": 0.5, **folders}
    revise(settings.model_copy(update=again))
    assert endpoint.count == 3
    assert examples(tmp_path / "of-tar" / "cod") == {"0/cod": examples(tmp_path / "cod")["0/cod"]}
    dropped = (tmp_path / "of-tar" / "cod-teacher" / "rows" / "dropped.jsonl").read_text()
    assert "image_missing" in dropped and "images.tar has no file '1.png'" in dropped


def test_one_answer_gives_both_examples_and_keeps_the_row(endpoint, tmp_path):
    came = []

    def late(body):
        """Of eight at a time, the first answers last."""
        answer = teacher(body)
        time.sleep(0.01 * (8 - endpoint.count % 8))
        came.append(answer)
        return answer

    endpoint.answer = late
    revise(config(tmp_path, 40, {"concurrency": 8}))
    assert came != [render(COD, bodies(f"c{i}")) for i in range(40)]
    assert endpoint.count == 40
    cod, dd = examples(tmp_path / "cod"), examples(tmp_path / "dd")
    # The order of the rows, whatever the order of the answers.
    assert list(cod) == [f"{i}/cod" for i in range(40)] and list(dd) == [f"{i}/dd" for i in range(40)]
    assert parse(COD, cod["7/cod"].turns[1].text) == bodies("c7")
    assert dd["7/dd"].turns[1].text == bodies("c7")[-1]
    assert cod["7/cod"].turns[0].text.endswith("Describe the image step-by-step.")
    assert cod["7/cod"].extra == dd["7/dd"].extra == {"caption": "c7", "url": "u7"}
    lines = (tmp_path / "cod-teacher" / "rows" / "shard-00000.jsonl").read_text().splitlines()
    row = json.loads(lines[7])
    assert row["caption"] == "c7" and row["dd_caption"] == bodies("c7")[-1] and row["conversations"][1]["value"] == "x"
    revise(config(tmp_path))
    assert endpoint.count == 40


def test_the_teachers_rows_are_themselves_annotated_rows(endpoint, tmp_path):
    revise(config(tmp_path, 3))
    shard = tmp_path / "cod-teacher" / "rows" / "shard-00000.jsonl"
    again = {"chain_dir": tmp_path / "cod2", "plain_dir": tmp_path / "dd2"}
    revise(ReviseConfig(task="captioning", input=shard, **again))
    assert len(examples(tmp_path / "cod")) == 3 and examples(tmp_path / "cod2") == examples(tmp_path / "cod")


def test_what_is_asked(endpoint, tmp_path):
    revise(config(tmp_path, 1))
    (body,) = endpoint.bodies
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.2, 2048)
    system, user = body["messages"]  # and no made-up turn of the assistant
    text, image = user["content"]
    assert text["text"] == "Question: What is there?\n\nShort description: c0"
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    positions = [system["content"].index(f"Step {k}: {h}") for k, h in enumerate(COD.headings, 1)]
    assert positions == sorted(positions)


def test_the_worked_example_is_an_answer_that_is_taken():
    assert PROMPT.version == "cod-v1"
    answer = Answer(render(COD, PROMPT.example), "stop", False, 1, 1)
    assert checked_bodies(answer, TeacherConfig(endpoint={"model": "m"})) == PROMPT.example


CHAIN = render(COD, bodies("x"))
BAD = {
    "empty": (("empty", None), "empty_answer"),
    "refusal field": (("refusal", None), "refusal"),
    "filtered": (("filtered", None), "refusal"),
    "refusal": (("text", "I'm sorry, but I can't help with that image."), "refusal"),
    "refusal in a step": (("text", CHAIN.replace("It is a plain", "I cannot describe this. It is a plain")), "refusal"),
    "cut": (("length", CHAIN), "cut_answer"),
    "four steps": (("text", CHAIN.partition("Step 5:")[0]), "chain"),
    "a step twice": (("text", CHAIN + "\n\nStep 5: x\ny"), "chain"),
    "order": (
        ("text", CHAIN.replace("Step 2", "Step 9").replace("Step 3", "Step 2").replace("Step 9", "Step 3")),
        "chain",
    ),
    "an empty step": (("text", CHAIN.replace("It is a plain gradient.\n", "\n", 1)), "chain"),
    "a preface": (("text", "Sure! Here it is.\n\n" + CHAIN), "chain"),
    "the body on the heading's line": (("text", CHAIN.replace("instance.\n", "instance. It is red.\n")), "heading"),
    "another heading": (("text", CHAIN.replace("marginal content", "rest")), "heading"),
    "too long": (("text", CHAIN + "x" * 4000), "length"),
    "too short": (("text", CHAIN.replace("It is a plain gradient.", "ok")), "length"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_is_asked_again_once_with_the_reason_and_then_fails(endpoint, tmp_path, case):
    fault, reason = BAD[case]
    endpoint.faults = [fault, fault]
    revise(config(tmp_path, 2, {"concurrency": 1}))
    assert endpoint.count == 3
    said = endpoint.bodies[1]["messages"]
    assert [m["role"] for m in said] == ["system", "user", "assistant", "user"]
    assert said[-1]["content"].startswith("That answer cannot be used: ")
    (row,) = failed(tmp_path).values()
    assert row["reason"] == reason and row["detail"] in said[-1]["content"]
    good = str(1 - int(row["id"]))
    assert list(examples(tmp_path / "cod")) == [f"{good}/cod"] and list(examples(tmp_path / "dd")) == [f"{good}/dd"]
    assert read_json(tmp_path / "cod-teacher" / "rows" / "manifest.json")["failed"] == {reason: 1}


@pytest.mark.parametrize("case", ["empty", "refusal", "four steps"])
def test_a_better_second_answer_is_taken(endpoint, tmp_path, case):
    endpoint.faults = [BAD[case][0]]
    revise(config(tmp_path, 2))
    assert endpoint.count == 3 and not failed(tmp_path)
    assert len(examples(tmp_path / "cod")) == len(examples(tmp_path / "dd")) == 2


def test_no_text_of_an_error_becomes_data(endpoint, tmp_path):
    endpoint.faults = [("status", 500)] * 2 + [("malformed", None)] * 2
    revise(config(tmp_path, 4, {"concurrency": 1, "attempts": 2}))
    assert [row["reason"] for row in failed(tmp_path).values()] == ["no_answer", "no_answer"]
    assert "status 500" in (tmp_path / "cod-teacher/rows/failed.jsonl").read_text()
    data = b"".join(p.read_bytes() for p in tmp_path.rglob("shard-*.jsonl"))
    assert b"500" not in data and b"error" not in data and data.count(b'"id"') == 2 * 3


def test_rows_that_cannot_be_asked_are_dropped_before_they_cost(endpoint, tmp_path):
    rows = {"row0": {"caption": ""}, "row1": {"image": "../x.png"}, "row2": {"image": "none.png"}}
    rows |= {"row3": {"image": None}, "row5": {"id": 6}}
    write_rows(tmp_path, 8, **rows)
    (tmp_path / "images" / "4.png").write_bytes(b"no image")
    revise(config(tmp_path, max_dropped_share=1.0))
    manifest = read_json(tmp_path / "cod-teacher" / "rows" / "manifest.json")
    reasons = ["duplicate_id", "image_broken", "image_missing", "image_refused", "marker_count", "no_caption"]
    dropped = dict.fromkeys(reasons, 1)
    assert manifest["dropped"] == dropped and manifest["rows_out"] == endpoint.count == 2
    assert manifest["rows_in"] == manifest["rows_out"] + sum(dropped.values())


def test_both_folders_are_claimed_before_anything_is_paid(endpoint, tmp_path):
    (tmp_path / "dd").mkdir()
    (tmp_path / "dd" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="dd is not empty"):
        revise(config(tmp_path, 2))
    assert endpoint.count == 0


def test_many_failures_stop_the_run_and_a_larger_share_resumes_without_asking_again(endpoint, tmp_path):
    endpoint.answer = lambda body: "Hm."
    with pytest.raises(ValueError, match="21 of the first 21 rows failed .chain 21"):
        revise(config(tmp_path, 60, {"concurrency": 1}))
    assert endpoint.count == 42
    before, endpoint.answer = endpoint.count, teacher
    revise(config(tmp_path, max_failed_share=0.5))
    assert len(failed(tmp_path)) == 21 and endpoint.count == before + 39


def test_a_budget_stops_the_run_and_a_higher_one_resumes(endpoint, tmp_path):
    prices = {"input": 1.0, "output": 10.0}
    with pytest.raises(BudgetReached):
        revise(config(tmp_path, 30, {"prices": prices, "budget": {"usd": 0.025}, "concurrency": 2}))
    spent = endpoint.count
    assert 0 < spent < 30 and spent * (100 * 1 + 50 * 10) / 1e6 <= 0.025
    assert not (tmp_path / "cod" / "manifest.json").exists()
    revise(config(tmp_path, None, {"prices": prices, "budget": {"usd": 10}}))
    assert endpoint.count == 30 and len(examples(tmp_path / "dd")) == 30


def start(folder):
    settings = ["task=captioning", f"input={folder}/in.jsonl", f"image_folder={folder}/images"]
    settings += [f"chain_dir={folder}/cod", f"plain_dir={folder}/dd"]
    settings += ["teacher.endpoint.model=m", "teacher.endpoint.concurrency=4"]
    command = [warm_sicog(), "annotate", *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_killed_again_and_again_no_stored_answer_is_asked_twice(endpoint, tmp_path):
    endpoint.delay_s = 0.02
    write_rows(tmp_path, 120)
    kills, output = 0, b""
    for wanted in (30, 80):
        child = start(tmp_path)
        while endpoint.count < wanted and child.poll() is None:
            time.sleep(0.005)
        kills += child.poll() is None
        child.send_signal(signal.SIGKILL)
        output += child.communicate()[0]
    child = start(tmp_path)
    output += child.communicate(timeout=60)[0]
    assert child.returncode == 0, output.decode()
    assert kills == 2 and 120 <= endpoint.count <= 120 + 2 * 4  # at most what was in flight
    (tmp_path / "calm").mkdir()
    write_rows(tmp_path / "calm", 120)
    revise(config(tmp_path / "calm"))
    parts = ("cod", "dd", "cod-teacher/rows")
    assert files_of(tmp_path, *parts) == files_of(tmp_path / "calm", *parts)
    # The key is nowhere: no file, no output, no argument.
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY.encode() not in written + output and b"m" in written
    assert all(h["authorization"] == f"Bearer {KEY}" for h in endpoint.headers)


def test_another_folder_with_the_same_answers_pays_nothing(endpoint, tmp_path):
    answers = {"answers": tmp_path / "answers"}
    revise(config(tmp_path, 5, answers))
    before = endpoint.count
    revise(
        config(tmp_path, None, answers).model_copy(update={"chain_dir": tmp_path / "c", "plain_dir": tmp_path / "d"})
    )
    assert endpoint.count == before == 5
    assert examples(tmp_path / "c") == examples(tmp_path / "cod")


def test_an_estimate_asks_nothing_and_says_what_it_would_take(endpoint, tmp_path, capsys):
    limits = {"prices": {"input": 2.0, "output": 8.0}, "requests_per_minute": 2, "tokens_per_minute": 100_000}
    asked = config(tmp_path, 4, limits)
    for i in range(4):
        Image.new("RGB", (2048, 1024)).save(tmp_path / "images" / f"{i}.png")
    print_estimate(asked)
    said = capsys.readouterr().out
    assert endpoint.count == 0 and {p.name for p in tmp_path.iterdir()} == {"in.jsonl", "images"}
    assert "to ask 4, answered before 0, unusable 0" in said
    tokens = -(-1024 * 512 // 784)
    assert f"sent at 1024x512 (medians), {tokens} tokens each" in said and f"({4 * tokens:,} of images)" in said
    assert "answer tokens: 2,400 (600 each: expected_answer_tokens)" in said
    assert "time: 0.03 hours" in said  # 4 requests at 2 a minute
    found = float(said.split("money: ")[1].split(" ")[0])
    prompt = int(said.split("prompt tokens: ")[1].split(" ")[0].replace(",", ""))
    assert found == round((prompt * 2 + 2400 * 8) / 1e6, 2) and prompt > 4 * (tokens + 700)
    revise(config(tmp_path))
    print_estimate(asked)
    assert "to ask 0, answered before 4" in capsys.readouterr().out


def test_an_estimate_needs_a_teacher(tmp_path):
    paths = {"input": tmp_path / "x", "chain_dir": tmp_path / "a", "plain_dir": tmp_path / "b"}
    with pytest.raises(ValueError, match=r"Set teacher\.endpoint\.model"):
        print_estimate(ReviseConfig(task="captioning", **paths))
    with pytest.raises(ValueError, match="Set image_folder"):
        ReviseConfig(task="captioning", teacher={"endpoint": {"model": "m"}}, **paths)


def test_the_texts_of_a_step_are_limited_by_the_config():
    settings = TeacherConfig(endpoint={"model": "m"}, max_chars=100)
    with pytest.raises(BadAnswer, match="allowed are 80 to 100"):
        checked_bodies(Answer(CHAIN, "stop", False, 1, 1), settings)
