"""The engine `openai` against a real local server: what is asked, what is kept, what fails."""

import base64
import io
import json

import pytest
from fake_endpoint import Endpoint, serving
from generation.worlds import write_world
from PIL import Image

from sicog.generation.config import SampleConfig
from sicog.generation.estimate import estimate
from sicog.generation.sample import sample
from sicog.records import CandidateSet, Failed
from sicog.stages.storage import read_json, read_records

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(Endpoint(lambda body: f"A picture. {body['seed']}")) as served:
        yield served


@pytest.fixture
def config(tmp_path, endpoint):
    world = write_world(tmp_path / "w", 3)

    def make(**values):
        base = {"engine": "openai", "endpoint": {"model": "vlm", "base_url": endpoint.url, "attempts": 1}}
        paths = {"input": world, "image_folder": world.parent, "out_dir": tmp_path / "out"}
        return SampleConfig.model_validate({**base, **paths, "task": "captioning", "max_side": 100, **values})

    return make


def test_each_sample_is_a_request_and_a_restart_pays_for_nothing_twice(config, endpoint, tmp_path):
    folder = sample(config(max_new_tokens=70, temperature=0.6))
    sets = list(read_records(folder, CandidateSet))
    assert [len(s.candidates) for s in sets] == [3, 3, 3] and endpoint.count == 9
    seeds = {body["seed"] for body in endpoint.bodies}
    assert len(seeds) == 9 and {c.text for s in sets for c in s.candidates} == {f"A picture. {x}" for x in seeds}
    (candidate, *_) = sets[0].candidates
    assert (candidate.checkpoint, candidate.n_tokens, candidate.finish_reason) == ("openai:vlm", 50, "stop")
    body = endpoint.bodies[0]
    assert (body["temperature"], body["max_tokens"], body["top_p"]) == (0.6, 70, 0.9)
    image, text = body["messages"][0]["content"]
    shown = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].split(",")[1])))
    assert max(shown.size) <= 100 and text["text"].startswith("Please generate")
    # Without the dataset, with the stored answers: the same bytes, and nothing is asked.
    before = (folder / "shard-00000.jsonl").read_bytes()
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    sample(config(max_new_tokens=70, temperature=0.6))
    assert (folder / "shard-00000.jsonl").read_bytes() == before and endpoint.count == 9
    assert KEY not in "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())


def test_what_is_not_answered_fails_its_row_and_no_error_text_is_data(config, endpoint):
    endpoint.faults = [("refusal", None), ("empty", None), ("status", 500)]
    one = {"prompt": "default", "max_dropped_share": None}
    folder = sample(config(**one, endpoint={"model": "v", "base_url": endpoint.url, "attempts": 1, "concurrency": 1}))
    assert read_json(folder / "manifest.json")["failed"] == {"empty": 1, "no_answer": 1, "refusal": 1}
    failed = [Failed.model_validate_json(line) for line in (folder / "failed.jsonl").read_text().splitlines()]
    assert {f.id for f in failed} == {"row-0", "row-1", "row-2"} and not list(read_records(folder, CandidateSet))


def test_too_many_failures_stop(config, endpoint):
    endpoint.faults = [("refusal", None)] * 9
    with pytest.raises(ValueError, match="3 of 3 rows cannot be used"):
        sample(config())


def test_a_broken_image_is_dropped_and_a_corrupted_one_is_what_is_sent(config, endpoint, tmp_path):
    whole = (tmp_path / "w" / "1.png").read_bytes()
    (tmp_path / "w" / "1.png").write_bytes(whole[: len(whole) // 2])
    folder = sample(config(prompt="default", corruptions=["mirror_rotation"], max_dropped_share=0.5))
    assert read_json(folder / "manifest.json")["dropped"] == {"image_broken": 1}
    urls = [body["messages"][0]["content"][0]["image_url"]["url"] for body in endpoint.bodies]
    sizes = sorted(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).size for url in urls)
    assert sizes == [(60, 60), (100, 33)]  # row 2 is 100 x 300
    assert json.loads((folder / "shard-00000.jsonl").read_text().splitlines()[0])["candidates"][0]["corruptions"]


def test_what_the_protocol_has_not_is_refused(config):
    for values, words in (
        ({"top_k": 20}, "does not support beams, top_k"),
        ({"workers": 2}, "one process"),
        ({"endpoint": None}, "needs an endpoint"),
        ({"engine": "transformers"}, "needs a checkpoint"),
    ):
        with pytest.raises(ValueError, match=words):
            config(**values)
    with pytest.raises(ValueError, match="would be paid"):
        estimate(config())
