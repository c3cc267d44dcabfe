"""`sicog sample` on files: candidates with all they need, drops with reasons, resume to the same bytes."""

import json
import os
import pickle
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest
import torch
from generation.worlds import SIZES, write_world

from sicog.config import load_config
from sicog.generation import sample as sample_module
from sicog.generation.config import SampleConfig, styles_for_prompt
from sicog.generation.corruption import draw_corruption
from sicog.generation.sample import SampleBlock, sample
from sicog.model.precision import resolve_precision
from sicog.records import CandidateSet, Dropped, Query
from sicog.stages.provenance import digest_path
from sicog.stages.storage import read_json, read_records, write_dataset


def _config(checkpoint, world, out_dir, **values):
    defaults = {"task": "captioning", "max_new_tokens": 10, "block_size": 2, "rows_per_shard": 4, "temperature": 1.0}
    return SampleConfig.model_validate(
        {"checkpoint": checkpoint, "input": world, "image_folder": world.parent, "out_dir": out_dir} | defaults | values
    )


def _sets(folder):
    return {row.id: row for row in read_records(folder, CandidateSet)}


def _bytes(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "run.json"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def captions(tiny_dir, world, tmp_path_factory):
    return sample(_config(tiny_dir, world, tmp_path_factory.mktemp("out") / "captions"))


def test_every_candidate_carries_what_it_needs(tiny_dir, captions):
    sets = _sets(captions)
    assert list(sets) == [f"row-{i}" for i in range(7)]
    for row in sets.values():
        assert [(c.style, c.index) for c in row.candidates] == [("cod", 0), ("cod", 1), ("dd", 0)]
        for c in row.candidates:
            assert c.query_id == row.id and c.checkpoint == digest_path(tiny_dir) and c.seed == 0
            assert c.n_tokens <= 10 and c.finish_reason in ("stop", "length")
        assert row.candidates[0].prompt.endswith("Describe the image step-by-step.")
    assert read_json(captions / "manifest.json")["rows_out"] == 7


def test_two_runs_and_other_blocks_give_the_same_text(tiny_dir, world, captions, tmp_path):
    again = sample(_config(tiny_dir, world, tmp_path / "again"))
    assert _bytes(again) == _bytes(captions)
    other = sample(_config(tiny_dir, world, tmp_path / "other", block_size=5, batch_size=4))
    assert _sets(other) == _sets(captions)


def test_images_of_a_tar_are_those_of_its_folder(tiny_dir, world, captions, tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as packed:
        for path in sorted(p for p in world.parent.rglob("*") if p.is_file() and p != world):
            packed.add(path, path.relative_to(world.parent).as_posix())
    of_tar = sample(_config(tiny_dir, world, tmp_path / "of-tar", image_folder=tmp_path / "images.tar"))
    assert _bytes(of_tar) == _bytes(captions)


def test_a_finished_folder_is_left_as_it_is_and_another_config_is_refused(tiny_dir, world, captions):
    before = _bytes(captions)
    sample(_config(tiny_dir, world, captions))
    assert _bytes(captions) == before
    with pytest.raises(ValueError, match="temperature"):
        sample(_config(tiny_dir, world, captions, temperature=0.3))


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_interrupted_and_run_again_gives_the_same_bytes(tiny_dir, world, captions, tmp_path, monkeypatch, stop_at):
    calls = []
    process = SampleBlock.__call__

    def counted(self, queries):
        calls.append([q.id for q in queries])
        if len(calls) == stop_at + 1:
            raise KeyboardInterrupt
        return process(self, queries)

    monkeypatch.setattr(SampleBlock, "__call__", counted)
    config = _config(tiny_dir, world, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        sample(config)
    assert not (tmp_path / "out" / "manifest.json").exists()
    sample(config)
    assert _bytes(tmp_path / "out") == _bytes(captions)
    assert len(calls) == 5  # four blocks and the one that was interrupted: no finished block is done twice


@pytest.mark.slow
def test_killed_in_the_middle_of_decoding(tiny_dir, world, captions, tmp_path):
    script = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from sicog.config import load_config
        from sicog.generation.decoding import Decoding
        from sicog.generation.config import SampleConfig
        from sicog.generation.sample import sample
        steps, step = [], Decoding.step
        def counted(self):
            steps.append(1)
            if len(steps) == 14:
                os.kill(os.getpid(), 9)
            step(self)
        Decoding.step = counted
        sample(load_config(SampleConfig, Path(sys.argv[1])))
    """)
    config = _config(tiny_dir, world, tmp_path / "out")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "config.json")], env=env, check=False)
    assert killed.returncode == -9 and not (tmp_path / "out" / "manifest.json").exists()
    sample(config)
    assert _bytes(tmp_path / "out") == _bytes(captions)


@pytest.mark.slow
@pytest.mark.nightly  # tests/stages/test_runner.py has light workers, tests/test_examples.py two that sample
def test_two_workers_write_the_bytes_of_one(tiny_dir, world, captions, tmp_path):
    """One shard each, sent to processes that load the model by themselves."""
    assert _bytes(sample(_config(tiny_dir, world, tmp_path / "out", workers=2))) == _bytes(captions)


def test_a_bad_image_drops_its_row_and_no_other_text_moves(tiny_dir, captions, tmp_path):
    world = write_world(tmp_path / "w")
    (tmp_path / "w" / "1.png").unlink()
    whole = (tmp_path / "w" / "2.png").read_bytes()
    (tmp_path / "w" / "2.png").write_bytes(whole[: len(whole) // 2])  # a header, and half of the pixels
    (tmp_path / "w" / "3.png").write_bytes(b"not an image")
    rows = json.loads(world.read_text())
    rows[4]["image"] = "../4.png"
    world.write_text(json.dumps(rows))
    folder = sample(_config(tiny_dir, world, tmp_path / "out", max_dropped_share=None, block_size=7))
    lines = (folder / "dropped.jsonl").read_text().splitlines()
    drops = {d.id: d.reason for d in map(Dropped.model_validate_json, lines)}
    assert drops == {
        "row-1": "image_missing",
        "row-2": "image_broken",
        "row-3": "image_broken",
        "row-4": "image_refused",
    }
    before, after = _sets(captions), _sets(folder)
    assert after == {row_id: before[row_id] for row_id in ("row-0", "row-5", "row-6")}


def test_too_elongated_an_image_and_too_long_a_question_are_dropped(tiny_dir, world, tmp_path):
    block = SampleBlock(_config(tiny_dir, world, tmp_path / "out", task="reasoning"))
    block.engine.processor.image_processor.max_patches = 10
    rows = [("wide", "1.png", "Why?"), ("long", "", "Why? " * 3000), ("good", "", "Why?")]
    queries = [
        Query(id=i, task="reasoning", images=(name,) if name else (), question=question) for i, name, question in rows
    ]
    wide, long, good = block(queries)
    assert isinstance(wide, Dropped) and wide.reason == "view_too_large" and "elongated" in wide.detail
    assert isinstance(long, Dropped) and long.reason == "prompt_too_long" and "tokens" in long.detail
    assert not isinstance(good, Dropped) and good[0].id == "good"


def test_too_many_drops_stop_the_run(tiny_dir, tmp_path):
    world = write_world(tmp_path / "w")
    for i in (0, 1, 2):
        (tmp_path / "w" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match="max_dropped_share"):
        sample(_config(tiny_dir, world, tmp_path / "out"))


def test_more_drops_may_be_allowed_in_the_same_folder(tiny_dir, tmp_path):
    world = write_world(tmp_path / "w")
    for i in (0, 1, 2):
        (tmp_path / "w" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match="max_dropped_share"):
        sample(_config(tiny_dir, world, tmp_path / "out"))
    folder = sample(_config(tiny_dir, world, tmp_path / "out", max_dropped_share=0.5))
    assert read_json(folder / "manifest.json")["dropped"] == {"image_missing": 3} and len(_sets(folder)) == 4


def test_precision(tiny_dir, world, tmp_path):
    """What is asked for, settled in run.json; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    for precision, device, dtype in (
        ("auto", "cpu", torch.float32),
        ("float32", "cpu", torch.float32),
        ("bfloat16", "cpu", torch.bfloat16),
    ):
        config = _config(tiny_dir, world, tmp_path / precision, precision=precision, device=device, max_new_tokens=4)
        assert SampleBlock(config).engine.model.dtype == dtype
        folder = sample(config)
        assert read_json(folder / "run.json")["identity"]["precision"] == str(dtype).removeprefix("torch.")
        assert len(_sets(folder)) == 7
    assert resolve_precision("auto", "cuda:1") == "bfloat16"
    for device in ("gpu", "CPU", "cuda:x", ""):
        with pytest.raises(ValueError, match="Give auto, cpu, cuda"):
            resolve_precision("auto", device)
    sample(_config(tiny_dir, world, tmp_path / "auto", precision="float32", max_new_tokens=4))  # the same run
    with pytest.raises(ValueError, match="precision was"):
        sample(_config(tiny_dir, world, tmp_path / "auto", precision="bfloat16", max_new_tokens=4))


def test_reasoning_asks_the_question_of_the_row(tiny_dir, tmp_path):
    world = write_world(tmp_path / "w", 3, questions=True)
    folder = sample(_config(tiny_dir, world, tmp_path / "out", task="reasoning"))
    candidates = _sets(folder)["row-2"].candidates
    question = "How many red objects are there, or 2?"
    assert [c.prompt for c in candidates] == [
        f"{question} Answer the question step-by-step.",
        f"{question} Answer the question step-by-step.",
        f"{question} Answer the question using a single word or phrase.",
    ]


def test_our_own_queries_prompt_overrides_and_text_only_rows(tiny_dir, world, tmp_path):
    queries = [
        Query(id="a", task="reasoning", images=("1.png", "2.png"), question="Which is larger?"),
        Query(id="b", task="reasoning", question="How many?"),
        Query(id="c", task="reasoning", images=("3.png",)),
    ]
    write_dataset(tmp_path / "queries", queries)
    styles = [{"style": "plain", "n": 2, "prompt": "Say: {question}"}, {"style": "direct"}]
    values = {"task": "reasoning", "styles": styles, "image_folder": world.parent, "max_dropped_share": None}
    folder = sample(_config(tiny_dir, tmp_path / "queries", tmp_path / "out", **values))
    sets = _sets(folder)
    assert [c.prompt for c in sets["a"].candidates][:2] == ["Say: Which is larger?"] * 2
    assert len(sets["b"].candidates) == 3 and "c" not in sets
    assert read_json(folder / "manifest.json")["dropped"] == {"no_question": 1}


def test_a_query_of_the_other_task_is_refused(tiny_dir, world, tmp_path):
    write_dataset(tmp_path / "queries", [Query(id="a", task="captioning", images=("1.png",))])
    with pytest.raises(ValueError, match="query a .*captioning"):
        sample(_config(tiny_dir, tmp_path / "queries", tmp_path / "out", task="reasoning", image_folder=world.parent))


def test_corruptions_change_the_image_that_is_seen(tiny_dir, world, captions, tmp_path):
    masked = sample(_config(tiny_dir, world, tmp_path / "masked", corruptions=["mask"], temperature=0))
    again = sample(_config(tiny_dir, world, tmp_path / "again", corruptions=["mask"], temperature=0))
    clean = sample(_config(tiny_dir, world, tmp_path / "clean", temperature=0))
    assert _bytes(masked) == _bytes(again)
    seen = []
    block = SampleBlock(_config(tiny_dir, world, tmp_path / "x", corruptions=["mask"]))
    plain = SampleBlock(_config(tiny_dir, world, tmp_path / "x"))
    for i in range(len(SIZES)):
        query = Query(id=f"row-{i}", task="captioning", images=(f"{i}.png",))
        corrupted, whole = block._picture(query, 0, {}).read(), plain._picture(query, 0, {}).read()
        seen.append(corrupted.tobytes() != whole.tobytes())
    assert all(seen)
    assert set(_sets(masked)) == set(_sets(clean))


def test_candidates_carry_what_was_done_to_their_images(tiny_dir, world, captions, tmp_path):
    names = ["mirror_rotation", "gaussian_blur"]
    config = _config(tiny_dir, world, tmp_path / "corrupted", corruptions=names, max_new_tokens=2)
    found = set()
    for row in _sets(sample(config)).values():
        done = draw_corruption(tuple(names), 0, f"{row.id}/0")
        assert all(c.corruptions == (done,) for c in row.candidates)
        found.add(done.method)
    assert found == set(names)
    assert all(not c.corruptions for row in _sets(captions).values() for c in row.candidates)


def test_a_corrupted_picture_has_the_size_that_is_announced(tiny_dir, world, tmp_path):
    block = SampleBlock(_config(tiny_dir, world, tmp_path / "x", corruptions=["mirror_rotation"]))
    for i in range(len(SIZES)):
        query = Query(id=f"row-{i}", task="captioning", images=(f"{i}.png",))
        picture = block._picture(query, 0, {})
        assert picture.size == picture.read().size == SIZES[i][::-1]


def test_text_is_sampled_and_scored_like_the_rest(tiny_dir, tmp_path):
    from sicog.curation.score.score import ScoreSets

    rows = [{"id": "a", "conversations": [{"from": "human", "value": "Name two colours."}]}]
    rows += [{"id": "b"}, {"id": "c", "image": "x.png", "conversations": rows[0]["conversations"]}]
    (tmp_path / "text.json").write_text(json.dumps(rows))
    folder = sample(_config(tiny_dir, tmp_path / "text.json", tmp_path / "out", task="text", max_dropped_share=None))
    (row,) = _sets(folder).values()
    assert [(c.style, c.prompt) for c in row.candidates] == [("text", "Name two colours.")] * 3
    assert read_json(folder / "manifest.json")["dropped"] == {"image": 1, "no_question": 1}

    class Letters:
        description = "letters"

        def embed(self, texts):
            return torch.tensor([[t.count("e"), t.count("r"), 1.0] for t in texts]).numpy()

    texts = ["Red. Green.", "Red. Green.", "blue"]
    told = [
        c.model_copy(update={"text": t, "finish_reason": "stop"}) for c, t in zip(row.candidates, texts, strict=True)
    ]
    ((scored,),) = ScoreSets(Letters())([row.model_copy(update={"candidates": tuple(told)})])
    assert [c.compared for c in scored.candidates] == texts and scored.candidates[0].vote is None
    assert scored.candidates[0].score > scored.candidates[2].score


def test_beams_go_through_plain_generate(tiny_dir, world, tmp_path):
    folder = sample(_config(tiny_dir, world, tmp_path / "out", beams=2, max_new_tokens=2, prompt="default"))
    assert len(_sets(folder)) == 7 and read_json(folder / "run.json")["identity"]["beams"] == 2


def test_workers_get_the_checkpoints_digest_and_do_not_compute_it(tiny_dir, world, tmp_path, monkeypatch):
    block = SampleBlock(_config(tiny_dir, world, tmp_path / "out"))
    sent = pickle.dumps(block)
    monkeypatch.setattr(sample_module, "digest_path", lambda _: pytest.fail("digested again"))
    assert pickle.loads(sent).source == digest_path(tiny_dir)


def test_batch_size_and_beams_belong_to_the_config_digest():
    base = {"checkpoint": "c", "input": "i", "out_dir": "o", "task": "captioning"}
    identity = SampleConfig.model_validate(base).identity()
    assert identity["batch_size"] == 64 and identity["beams"] == 1
    moved = SampleConfig.model_validate({**base, "workers": 3, "launch": {"on": "slurm"}, "device": "cpu"})
    assert moved.identity() == identity


def test_the_scripts_sample_as_the_original_did_and_its_paper_set_in_one_pass():
    root = Path(__file__).parents[2] / "recap_scripts" / "configs"
    for name, styles in (("captioning", [("cod", 2), ("dd", 1)]), ("reasoning", [("cot", 2), ("direct", 1)])):
        values = ["checkpoint=c", "input=i", "out_dir=o", "prompt=paper"]
        config = load_config(SampleConfig, root / f"{name}.yaml", values)
        assert [(s.style, s.n) for s in config.wanted_styles] == styles
        assert (config.temperature, config.top_p, config.top_k, config.repetition_penalty) == (0.7, 0.9, 20, 1.05)


def test_prompt_names_of_the_scripts():
    assert [s.style for s in styles_for_prompt("captioning", "cod-default")] == ["cod"]
    assert [s.style for s in styles_for_prompt("captioning", "cod-conv")] == ["cod-conv"]
    assert [s.style for s in styles_for_prompt("captioning", "default")] == ["dd"]
    assert [s.style for s in styles_for_prompt("reasoning", "cot-default")] == ["cot"]
    assert [s.style for s in styles_for_prompt("reasoning", "default")] == ["plain"]
    with pytest.raises(ValueError, match="cod-default"):
        styles_for_prompt("captioning", "cot-default")


def test_config_mistakes_name_the_key(tmp_path):
    base = {"checkpoint": "c", "input": "i", "out_dir": "o", "task": "captioning"}
    for values, words in (
        ({"stiles": []}, "did you mean 'styles'"),
        ({"styles": [{"style": "cot"}]}, "unknown captioning style 'cot'"),
        ({"styles": [{"style": "dd"}, {"style": "dd"}]}, "listed twice"),
        ({"styles": [{"style": "dd"}], "prompt": "default"}, "give either styles or prompt"),
        ({"temperature": -1}, "temperature"),
        ({"corruptions": ["blur"]}, "corruptions"),
        ({"workers": 2, "device": "cuda:1"}, "Remove device"),
    ):
        (tmp_path / "c.yaml").write_text(json.dumps(base | values))
        with pytest.raises(ValueError, match=words):
            load_config(SampleConfig, tmp_path / "c.yaml")


def test_config_needs_no_torch():
    code = "import sys, sicog.generation.sample, sicog.generation.group; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
