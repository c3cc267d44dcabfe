"""A context is read before the prompt, kept out of what is stored, and can stand for the image."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from sicog.chains import COD, render
from sicog.generation.config import SampleConfig
from sicog.generation.context import read_contexts
from sicog.generation.sample import SampleBlock, sample
from sicog.records import CandidateSet, Example, Query
from sicog.stages.storage import read_records, write_dataset
from sicog.tasks import REASONING


def described(row_id, image, text, style="dd"):
    turns = [{"role": "user", "text": "?", "images_at": [0]}, {"role": "assistant", "text": text}]
    values = {"id": row_id, "images": [image], "turns": turns, "source": "captioning", "extra": {"style": style}}
    return Example.model_validate(values)


@pytest.fixture
def values(tiny_dir, tmp_path):
    write_dataset(tmp_path / "known", [described("1", "a.png", "A red dog."), described("2", "a.png", "A cat.")])
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / name)
    asked = [{"from": "human", "value": "<image>\nWhat is it?"}]
    rows = [{"id": name, "image": f"{name}.png", "conversations": asked} for name in ("a", "b")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    of = {"checkpoint": tiny_dir, "input": tmp_path / "rows.json", "image_folder": tmp_path, "task": "reasoning"}
    return of | {"styles": [{"style": "direct", "n": 1}], "temperature": 2.0, "max_new_tokens": 40}


def test_the_first_row_of_an_image_is_its_context_without_the_steps_of_a_chain(tmp_path):
    chain = render(COD, ("A dog.", "On a mat.", "By a door.", "It sleeps.", "A dog sleeps on a mat."))
    rows = [described("1", "a.png", "A dog."), described("2", "a.png", "A cat."), described("3", "b.png", chain, "cod")]
    write_dataset(tmp_path / "rows", rows)
    assert read_contexts(tmp_path / "rows") == {"a.png": "A dog.", "b.png": "A dog sleeps on a mat."}
    write_dataset(tmp_path / "broken", [described("4", "c.png", "Step 1: Look.", "cod")])
    with pytest.raises(ValueError, match="context: row 4 of .*broken is not a complete chain of style 'cod'"):
        read_contexts(tmp_path / "broken")


def test_the_model_reads_it_and_the_candidate_does_not_hold_it(values, tmp_path):
    context = {"path": tmp_path / "known"}
    with_it = SampleConfig.model_validate({**values, "out_dir": tmp_path / "with", "context": context})
    query = Query(id="a", task="reasoning", images=("a.png",), question="What is it?")
    (job,) = [SampleBlock(with_it).job(query, {})]
    prompt = REASONING.prompt(query, "direct")
    (request,) = job.requests
    assert request.full_prompt == f"A red dog.\n{prompt}" and request.prompt == prompt and len(job.images) == 1
    rows = list(read_records(sample(with_it), CandidateSet))
    plain = list(read_records(sample(SampleConfig.model_validate({**values, "out_dir": tmp_path / "p"})), CandidateSet))
    assert [r.candidates[0].prompt for r in rows] == [r.candidates[0].prompt for r in plain] == [prompt] * 2
    assert rows[0].candidates[0].text != plain[0].candidates[0].text
    assert rows[1].candidates == plain[1].candidates  # of b.png nothing is known


def test_it_can_stand_for_the_image(values, tmp_path):
    context = {"path": tmp_path / "known", "show_images": False}
    block = SampleBlock(SampleConfig.model_validate({**values, "out_dir": tmp_path / "o", "context": context}))
    jobs = [block.job(Query(id=k, task="reasoning", images=(f"{k}.png",), question="?"), {}) for k in "ab"]
    assert [len(job.images) for job in jobs] == [0, 1]
    with pytest.raises(ValueError, match="a context describes the clean and whole image"):
        SampleConfig.model_validate({**values, "out_dir": "o", "context": context, "corruptions": ["mask"]})
