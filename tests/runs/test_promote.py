"""promote.py: a model is refused only when it is worse beyond the interval; the test split decides nothing."""

import json

import pytest

from sicog.runs.promote import Measure, PromoteConfig, promote
from sicog.runs.run import run
from sicog.runs.status import show_status
from sicog.stages.storage import read_json

RIGHT = Measure(label="accuracy", file="answers.jsonl", value="right", group="image")


def evaluation(folder, values, split="dev"):
    folder.mkdir()
    rows = [{"id": f"q{i}", "image": f"i{i // 2}", "right": bool(v)} for i, v in enumerate(values)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.json").write_text(json.dumps({"config": {"split": split}}))
    return folder


def config(tmp_path, before, after, **values):
    return PromoteConfig(
        out_dir=tmp_path / "out",
        name="round 2",
        incumbent=evaluation(tmp_path / "before", before),
        candidate=evaluation(tmp_path / "after", after),
        measures=(RIGHT,),
        **values,
    )


def test_a_little_worse_is_promoted_and_much_worse_is_not(tmp_path):
    before = [1] * 60 + [0] * 40
    little, much = before.copy(), [0] * 50 + before[50:]
    little[0], little[99] = 0, 0
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    out = promote(config(tmp_path / "a", before, little))
    found = read_json(out / "promotion.json")
    assert found["promoted"] and (out / "manifest.json").is_file()
    assert found["measures"][0] | {"low": 0, "high": 0} == pytest.approx(
        {"label": "accuracy", "items": 100, "was": 0.6, "is": 0.59, "difference": -0.01, "low": 0, "high": 0}
    )
    refused = config(tmp_path / "b", before, much)
    with pytest.raises(
        ValueError, match=r"round 2 is not promoted: .* accuracy 0.600 -> 0.100, -0.500 \(95 % interval"
    ):
        promote(refused)
    assert not read_json(tmp_path / "b" / "out" / "promotion.json")["promoted"]
    assert not (tmp_path / "b" / "out" / "manifest.json").exists()  # the step is not done
    promote(refused.model_copy(update={"tolerance": 0.6, "out_dir": tmp_path / "b" / "allowed"}))


def test_a_run_stops_at_a_model_that_is_not_promoted_and_resumes_when_it_is(tmp_path, capsys):
    values = config(tmp_path, [1] * 40, [0] * 40).model_dump(mode="json", exclude={"out_dir"})
    rows = "align: 1, sft: 1, warmup_captions: 1, warmup_reasoning: 1, unlabelled: 1, dev: 1, test: 1"
    judged, more = f"{{run: promote, config: {json.dumps(values)}}}", f"{{run: mini-data, config: {{{rows}}}}}"
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"run_dir: {tmp_path}/run\nsteps:\n  judged: {judged}\n  more: {more}\n")
    with pytest.raises(ValueError, match="round 2 is not promoted"):
        run(recipe)
    assert not (tmp_path / "run" / "more").exists()
    assert not show_status(tmp_path / "run")
    shown = capsys.readouterr().out
    assert "judged: round 2 is not promoted" in shown and "0 of 2 steps done" in shown
    run(recipe, ["steps.judged.config.tolerance=1.0"])
    assert show_status(tmp_path / "run") and (tmp_path / "run" / "more").is_dir()


def test_the_test_split_decides_nothing(tmp_path):
    wanted = config(tmp_path, [1, 0], [1, 1])
    evaluation(tmp_path / "test", [1, 1], split="test")
    with pytest.raises(ValueError, match="candidate: .* was measured on the test split, which must not be used here"):
        promote(wanted.model_copy(update={"candidate": tmp_path / "test"}))


@pytest.mark.parametrize(
    ("after", "says"),
    [([1], "only one has 'q1'"), ([], "is empty"), ([1, 1], "accuracy: all 2 items are of one image")],
)
def test_what_cannot_be_compared_is_said(tmp_path, after, says):
    with pytest.raises(ValueError, match=says):
        promote(config(tmp_path, [1, 0], after))


def test_the_interval_is_of_images_not_of_questions(tmp_path):
    before, after = [1, 1, 0, 0] * 10, [1, 1, 0, 0] * 5 + [0, 0, 0, 0] * 5
    found = read_json(promote(config(tmp_path, before, after, tolerance=1)) / "promotion.json")["measures"][0]
    assert found["difference"] == pytest.approx(-0.25)
    half = 1.96 * (20 / 19 * 0.25 * 0.75 / 20) ** 0.5  # 20 images, 5 of which fall by one
    assert (found["low"], found["high"]) == pytest.approx((-0.25 - half, -0.25 + half), abs=1e-4)
