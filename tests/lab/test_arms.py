"""The arms as a recipe: which steps they become, what they share, and that all train alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sicog.lab.arms import LabConfig, load_lab, steps, write_recipe
from sicog.runs.recipe import load_recipe

SHIPPED = Path(__file__).parents[2] / "recipes" / "lab" / "arms.yaml"


@pytest.fixture(scope="module")
def lab() -> LabConfig:
    return load_lab(SHIPPED, ["seeds=[1,2]"])


def of(lab: LabConfig, *arms: str) -> dict[str, dict[str, Any]]:
    return dict(steps(lab.only(arms)))


def test_every_arm_trains_the_same_number_of_updates(lab: LabConfig) -> None:
    trained: dict[str, list[tuple[str, int, int]]] = {}
    for name, values in steps(lab):
        if values["run"] == "train" and name not in lab.shared:
            arm, seed, _ = name.rsplit("-", 2)
            config = values["config"]
            assert config["seed"] == int(seed)
            trained.setdefault(arm, []).append((config["stage"], config["max_steps"], config["global_batch"]))
    assert set(trained) == set(lab.arms)
    for arm, stages in trained.items():
        updates = sorted(n for _, n, _ in stages)
        assert updates == sorted([*([1000] if arm != "base" else []), 240] * 2), arm
        assert {batch for *_, batch in stages} == {8}
    assert {stage for stage, *_ in trained["dpo"]} == {"sft", "dpo"}


def test_the_issues_ablations_are_there(lab: LabConfig) -> None:
    asked = {"without-curation", "without-reasoning", "without-perception", "random-choice", "control", "dpo", "base"}
    assert asked <= set(lab.arms)
    for family in ("threshold", "k", "amount"):
        assert sum(name.startswith(f"{family}-") for name in lab.arms) >= 2


def test_the_recipe_resolves_and_reads_the_runs_candidates(lab: LabConfig, tmp_path: Path) -> None:
    there = load_lab(SHIPPED, [f"run_dir={tmp_path / 'lab'}", f"inputs.run.path={tmp_path / 'mini'}", "seeds=[1,2]"])
    recipe = load_recipe(write_recipe(there))
    by_name = {step.name: step for step in recipe.steps}
    assert by_name["full-2-pretrain"].depends_on == ("full-2-rows",)
    assert by_name["full-2-eval"].depends_on == ("full-2-sft",)
    assert by_name["dpo-1-dpo"].depends_on == ("dpo-1-sft", "dpo-pairs-1")
    said = recipe.missing(recipe.steps)
    assert any("captions-selected" in sentence and "make mini" in sentence for sentence in said)
    keys = [step.key for step in recipe.steps]
    assert len(set(keys)) == len(keys)


def test_a_step_that_names_no_seed_runs_once_and_one_that_does_for_each(lab: LabConfig) -> None:
    names = list(of(lab, "threshold-none", "random-choice"))
    assert names.count("threshold-none-captions") == 1 and "threshold-none-captions-1" not in names
    assert {"random-choice-captions-1", "random-choice-captions-2"} <= set(names)
    drawn = of(lab, "random-choice")["random-choice-captions-2"]["config"]
    assert drawn["seed"] == 2 and drawn["choose"] == "random"


def test_shared_steps_come_once_before_the_first_arm_that_needs_them(lab: LabConfig) -> None:
    names = list(of(lab, "one-sampler"))
    assert names.count("captions-one-merged") == 1
    assert names.index("captions-one") < names.index("captions-one-merged") < names.index("one-sampler-1-rows")
    assert "captions-one" not in of(lab, "control")


def test_an_amount_is_drawn_by_the_seed(lab: LabConfig) -> None:
    rows = of(lab, "amount-half")
    config = rows["amount-half-2-rows"]["config"]
    assert config["seed"] == 2 and [s["weight"] for s in config["sources"]] == [0.5, 0.5]
    assert all("weight" not in s for s in rows["full-1-rows"]["config"]["sources"])


def test_a_scorers_arm_is_trained_beside_the_method_alone(lab: LabConfig) -> None:
    tried = lab.with_scorer(Path("ideas/My Scorer.py"))
    assert list(tried.arms) == ["full", "my-scorer"]
    made = dict(steps(tried))["my-scorer-answers"]
    assert made["run"] == "lab-pick" and made["config"]["scorer"] == "ideas/My Scorer.py"


def test_the_arms_file_that_the_page_shows_extends_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(SHIPPED.parents[2])
    (text,) = re.findall(r"^```yaml\n(.*?)^```", Path("docs/lab.md").read_text(), re.DOTALL | re.MULTILINE)
    mine = tmp_path / "mine.yaml"
    mine.write_text(text.replace("extends: ", f"extends: {Path.cwd()}/").replace("runs/my-lab", str(tmp_path / "lab")))
    lab = load_lab(mine)
    assert {"full", "mostly-captions"} <= set(lab.arms)
    names = [step.name for step in load_recipe(write_recipe(lab.only(["mostly-captions"]))).steps]
    assert "mostly-captions-answers-2" in names and "mostly-captions-3-eval" in names


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("compare_with=nobody", "not an arm"),
        ("seeds=[1,1]", "twice"),
        ("arms.control.preferences={run: pair}", "Set only one"),
        ("arms.base.weight=2", "weight and train need rows for pre-training"),
        ("arms.Big={says: x}", "lower-case"),
    ],
)
def test_mistakes_are_reported(override: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_lab(SHIPPED, [override])


def test_unknown_and_taken_names_are_refused(lab: LabConfig) -> None:
    with pytest.raises(ValueError, match="unknown arm 'nope'"):
        lab.only(["nope"])
    with pytest.raises(ValueError, match="Rename the file"):
        lab.with_scorer(Path("control.py"))
