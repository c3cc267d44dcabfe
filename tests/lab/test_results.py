"""The arithmetic of the lab's table, on figures that are known by hand, and the table in the docs."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from sicog.lab.arms import LabConfig, eval_step, load_lab, write_recipe
from sicog.lab.compare_scorers import markdown as scorers_markdown
from sicog.lab.pictures import draw_arms, draw_curves
from sicog.lab.results import collect_results, crossed_interval, markdown
from sicog.lab.train_arms import lab_table
from sicog.lab.true_candidates import truth_of_examples
from sicog.records import Example
from sicog.runs.recipe import load_recipe
from sicog.stages.storage import read_json, write_bytes, write_json

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "recipes" / "lab" / "arms.yaml"
KEPT = ROOT / "benchmarks" / "results" / "2026-11-30-epyc-2-cores"


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        seeds, items = rng.normal(0, 0.02, (3, 1)), rng.normal(0, 0.4, (1, 300))
        values = 0.1 + seeds + items + rng.normal(0, 0.2, (3, 300))
        interval = crossed_interval(values, [str(i) for i in range(300)])
        covered += interval.low <= 0.1 <= interval.high
    assert 185 <= covered <= 200


def test_seeds_that_disagree_widen_the_interval_and_seeds_that_agree_do_not() -> None:
    values = np.random.default_rng(0).normal(size=(1, 200))
    groups = [str(i) for i in range(200)]
    agreeing = crossed_interval(np.repeat(values, 3, axis=0), groups)
    assert agreeing.high - agreeing.value == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(200), rel=0.02)
    disagreeing = crossed_interval(values + np.array([[-1.0], [0.0], [1.0]]), groups)
    assert disagreeing.value == pytest.approx(agreeing.value)
    # Student's t of two degrees of freedom: 4.303 standard errors of the mean of -1, 0, 1.
    assert disagreeing.high - disagreeing.value == pytest.approx(4.303 / math.sqrt(3), rel=0.02)


def test_questions_of_one_image_count_as_one() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=(2, 100)), 5, axis=1)
    each = crossed_interval(values, [str(i) for i in range(500)])
    together = crossed_interval(values, [str(i // 5) for i in range(500)])
    assert together.high - together.low > each.high - each.low


def test_one_seed_has_no_interval() -> None:
    interval = crossed_interval(np.ones((1, 3)), ["a", "b", "c"])
    assert interval.value == 1 and math.isnan(interval.low)


@pytest.fixture
def lab(tmp_path: Path) -> LabConfig:
    lab = load_lab(SHIPPED, [f"run_dir={tmp_path}", "seeds=[1,2]"]).only(["base", "control"])
    no_rows = {name: arm.model_copy(update={"rows": None}) for name, arm in lab.arms.items()}
    return lab.model_copy(update={"arms": no_rows})


def put(
    lab: LabConfig, arm: str, seed: int, right: list[int], f1: list[float], first: int = 0, *, chains: bool = True
) -> None:
    folder = lab.run_dir / eval_step(arm, seed)
    answers = [{"id": f"q{first + i}", "image": f"i{i // 2}", "right": bool(r)} for i, r in enumerate(right)]
    captions = [{"id": f"i{i}", "f1": value, "placed_f1": value / 2} for i, value in enumerate(f1)]
    for name in ("answers", *(["chains"] if chains else [])):
        write_bytes(folder / f"{name}.jsonl", b"".join(orjson.dumps(a) + b"\n" for a in answers))
    write_bytes(folder / "captions.jsonl", b"".join(orjson.dumps(c) + b"\n" for c in captions))
    write_json(folder / "manifest.json", {})


def test_results_are_paired_by_seed_and_question(lab: LabConfig) -> None:
    for seed in (1, 2):
        put(lab, "full", seed, [1, 0, 1, 0], [0.5, 0.5])
        put(lab, "control", seed, [1, 1, 1, 0], [0.25, 0.5])
    put(lab, "base", 1, [0, 0, 1, 0], [0.0, 0.5])
    results = collect_results(lab)
    arms = results["arms"]
    assert (arms["full"]["accuracy"]["mean"], arms["full"]["accuracy"]["by_seed"]) == (0.5, [0.5, 0.5])
    low, high = arms["control"]["accuracy"]["interval"]
    assert low < 0.75 < high and arms["base"]["accuracy"]["interval"] == [None, None]
    assert (arms["control"]["chains"]["mean"], arms["control"]["placed_f1"]["mean"]) == (0.75, 0.1875)
    assert arms["control"]["accuracy"]["difference"][0] == 0.25
    assert arms["control"]["caption_f1"]["difference"][0] == -0.125
    assert arms["base"]["accuracy"]["difference"] == [-0.25, None, None]
    assert results["missing"] == {"base": [2]}
    write_json(lab.run_dir / "lab.json", results)  # sorts keys
    text = markdown(read_json(lab.run_dir / "lab.json"))
    assert text.index("`full`") < text.index("`base`") < text.index("`control`")
    assert "| `control` |" in text and "+0.250 [" in text and "Not done yet: `base` (seed 2)." in text


def test_a_figure_that_not_all_evaluations_have_is_left_out(lab: LabConfig) -> None:
    put(lab, "full", 1, [1, 0], [0.5], chains=False)
    results = collect_results(lab)
    assert set(results["arms"]["full"]) >= {"accuracy", "caption_f1"} and "chains" not in results["arms"]["full"]
    assert "by chains" not in markdown(results)


def test_pictures_show_every_arm_and_every_curve(lab: LabConfig) -> None:
    for seed in (1, 2):
        put(lab, "full", seed, [1, 0, 1, 0], [0.5, 0.25])
        put(lab, "control", seed, [1, 1, 1, 0], [0.25, 0.5])
    results = collect_results(lab)
    for svg in (draw_arms(results), draw_curves(results, {"own rows": ("full", "control"), "none": ("base",)})):
        root = ElementTree.fromstring(svg)
        told = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
        assert len(told) == 4 and all("[" in text for text in told) and "question accuracy" in svg
    assert "full, caption F1: 0.375 [" in "".join(ElementTree.fromstring(draw_arms(results)).itertext())


def test_results_of_other_candidates_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, values = (
        tmp_path / "mini",
        [f"run_dir={tmp_path / 'lab'}", f"inputs.run.path={tmp_path / 'mini'}", "seeds=[1]"],
    )
    lab = load_lab(SHIPPED, values).only(["base", "perfect"])
    lab = lab.model_copy(
        update={"arms": {name: arm.model_copy(update={"rows": None}) for name, arm in lab.arms.items()}}
    )
    for arm in lab.arms:
        put(lab, arm, 1, [1, 0], [0.5])
    assert list(lab_table(lab)["arms"]) == ["full", "base", "perfect"]
    assert (
        "mini is missing, so it cannot be checked that these results are of its candidates" in capsys.readouterr().err
    )
    run.mkdir()
    keys = {step.name: step.key for step in load_recipe(write_recipe(lab)).steps}
    for arm, key in (("full", keys["full-1-eval"]), ("base", "of another run")):  # of the third nothing is known
        state = {"state": "done", "verb": "mini-eval", "key": key, "host": "h", "pid": 1, "since": 0.0, "seconds": 1.0}
        write_json(lab.run_dir / ".steps" / f"{arm}-1-eval.json", state)
    results = lab_table(lab)
    assert list(results["arms"]) == ["full", "perfect"] and results["missing"] == {"base": [1]}
    says = "skipped, because of other candidates or another config: base. Run `sicog lab run` to train them again\n"
    assert capsys.readouterr().err.endswith(says)


def test_evaluations_of_other_questions_are_not_compared(lab: LabConfig) -> None:
    put(lab, "full", 1, [1, 0], [0.5])
    put(lab, "control", 1, [1, 0], [0.5], first=7)
    with pytest.raises(ValueError, match="different questions"):
        collect_results(lab)


def test_the_tables_of_the_page_are_those_of_the_kept_results() -> None:
    page = (ROOT / "docs" / "lab.md").read_text()
    results, controls = read_json(KEPT / "lab.json"), read_json(KEPT / "lab-controls.json")
    assert markdown(results) in page and markdown(controls) in page
    assert scorers_markdown(read_json(KEPT / "lab-scorers.json")) in page
    assert set(controls["arms"]) == {"full", "base", "annotated", "random-choice", "perfect"}
    assert all(arm["seeds"] == [1, 2, 3, 4, 5, 6] for arm in controls["arms"].values())
    assert all(arm["seeds"] == [1, 2, 3] for arm in results["arms"].values())
    assert f"{results['updates']['pretrain']:,} updates of 8 rows" in page
    assert (ROOT / "docs" / "lab.svg").read_text() == draw_arms(controls)


def test_the_figures_of_the_first_page_are_those_of_the_kept_results() -> None:
    readme, controls = (ROOT / "README.md").read_text(), read_json(KEPT / "lab-controls.json")["arms"]
    for arm in ("annotated", "random-choice"):
        for figure in ("accuracy", "caption_f1"):
            value, low, high = (-x for x in controls[arm][figure]["difference"])
            assert f"{value:+.3f}, {high:+.3f} to {low:+.3f}" in " ".join(readme.split())


def test_the_table_of_chosen_and_random_candidates_is_that_of_the_kept_results() -> None:
    def truth(arm: dict[str, Any]) -> str:
        return f"captions {arm['truth']['captioning']:.3f}, answers {arm['truth']['reasoning']:.3f}"

    def difference(figure: dict[str, Any]) -> str:
        return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*figure["difference"])

    page, settings = (ROOT / "docs" / "lab.md").read_text(), read_json(KEPT / "lab-choice.json")
    assert len(settings) == 5
    for setting, arms in settings.items():
        chosen, drawn = arms["chosen"], arms["random"]
        seeds = str(len(chosen["seeds"]))
        of_rows = [setting, truth(chosen), truth(drawn), seeds]
        cells = [*of_rows, difference(chosen["accuracy"]), difference(chosen["caption_f1"])]
        assert f"| {' | '.join(cells)} |\n" in page
        assert chosen["seeds"] == drawn["seeds"] and len(chosen["seeds"]) >= 3


def test_rows_of_an_arm_come_with_their_truth(run_dir: Path, tmp_path: Path) -> None:
    def example(number: int, answer: str, extra: dict[str, str]) -> Example:
        turns = [{"role": "user", "text": "How many?"}, {"role": "assistant", "text": answer}]
        return Example.model_validate({"id": f"s0-q{number}", "turns": turns, "extra": extra})

    rows = [example(0, "two", {"style": "direct"}), example(1, "nine", {"style": "direct"}), example(2, "nine", {})]
    assert truth_of_examples(run_dir, rows) == {"reasoning": 0.5}
    renamed = [row.model_copy(update={"id": f"short:{row.id}#2", "source": "short"}) for row in rows]
    assert truth_of_examples(run_dir, renamed) == {"reasoning": 0.5}
