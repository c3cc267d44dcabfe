"""recipe.py: order, skipping, redoing what depends on a change, and plans without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sicog.lab.arms import load_lab
from sicog.records import Example
from sicog.runs.execute import run_planned
from sicog.runs.recipe import load_recipe
from sicog.runs.run import run
from sicog.runs.states import read_plan, write_plan
from sicog.stages.storage import read_records

RECIPE = """
run_dir: {run_dir}
steps:
  data:
    run: mini-data
    config: {{seed: 3, align: 4, sft: 4, warmup_captions: {captions}, warmup_reasoning: 5, unlabelled: 2, dev: 2,
             test: 2}}
  captions:
    run: mini-annotate
    config: {{task: captioning, input: "${{data}}/warmup_captions.json", image_folder: "${{data}}"}}
  reasoning:
    run: annotate
    config: {{task: reasoning, input: "${{data}}/warmup_reasoning.jsonl"}}
  all:
    run: build
    config:
      sources: [{{name: c, path: "${{captions}}/chain"}}, {{name: r, path: "${{reasoning}}/chain"}}]
      seed: {seed}
"""


def write(tmp_path, captions=4, seed=0, name="r.yaml"):
    path = tmp_path / name
    path.write_text(RECIPE.format(run_dir=tmp_path / "run", captions=captions, seed=seed))
    return path


def states(tmp_path):
    return {p.stem: json.loads(p.read_text())["key"] for p in (tmp_path / "run" / ".steps").glob("*.json")}


def test_a_recipe_runs_its_steps_and_skips_them_the_second_time(tmp_path, capfd):
    path = write(tmp_path)
    run_dir = run(path)
    assert len(list(read_records(run_dir / "all", Example))) == 9
    before = {p: p.stat().st_mtime_ns for p in run_dir.rglob("*")}
    capfd.readouterr()
    run(path)
    assert capfd.readouterr().err.count(": done") == 4
    assert {p: p.stat().st_mtime_ns for p in run_dir.rglob("*")} == before


def test_a_step_is_not_run_for_a_copy_nor_from_another_folder(tmp_path, monkeypatch):
    """It would read and write the run that the plan was made for, or folders that nobody meant."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    path.write_text(path.read_text().replace(str(tmp_path / "run"), "run"))
    write_plan(Path("run"), load_recipe(path).steps)
    shutil.copytree("run", "copy")
    with pytest.raises(ValueError, match=rf"would write to {tmp_path / 'run' / 'data'}: .* or is a copy"):
        run_planned(Path("copy"), "data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="Call `sicog step` in the folder where `sicog run` was called"):
        run_planned(tmp_path / "run", "data")
    assert not list(tmp_path.rglob("manifest.json"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="needs data. Run these steps first"):
        run_planned(tmp_path / "run", "captions")


def test_a_changed_step_is_redone_with_what_depends_on_it_and_the_old_output_kept(tmp_path):
    run(write(tmp_path))
    before = states(tmp_path)
    run(write(tmp_path, seed=1))
    after = states(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"all"}
    assert [p.name for p in (tmp_path / "run" / ".replaced").iterdir()] == [f"all-{before['all'][:8]}"]
    run(write(tmp_path, seed=1, captions=5))
    assert {name for name, key in states(tmp_path).items() if key == after[name]} == set()
    assert len(list(read_records(tmp_path / "run" / "all", Example))) == 10


def test_a_step_that_was_cut_off_is_finished(tmp_path, monkeypatch):
    path = write(tmp_path)
    import sicog.curation.build.build as build

    def cut(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "build", cut)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    run(path)
    assert len(list(read_records(tmp_path / "run" / "all", Example))) == 9


def test_outside_files_count_by_their_content(tmp_path):
    outside = tmp_path / "cot.jsonl"
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"run_dir: {tmp_path / 'run'}\nsteps: {{a: {{run: annotate, config: {{task: reasoning, input: {outside}}}}}}}"
    )
    keys = []
    for text in ("1", "2", "1"):
        outside.write_text(text)
        keys.append(load_recipe(recipe).steps[0].key)
    assert keys[0] == keys[2] != keys[1]


def test_extends_and_overrides_and_until(tmp_path):
    write(tmp_path, name="base.yaml")
    path = tmp_path / "small.yaml"
    path.write_text("extends: base.yaml\nsteps: {data: {config: {warmup_captions: 2}}}")
    steps = load_recipe(path, ["steps.all.config.seed=5"]).steps
    assert (steps[0].config.warmup_captions, steps[0].config.align, steps[3].config.seed) == (2, 4, 5)
    run_dir = run(path, until="captions")
    assert sorted(states(tmp_path)) == ["captions", "data"]
    assert [step["name"] for step in read_plan(run_dir)] == ["data", "captions", "reasoning", "all"]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (("run: build", "run: built"), "step 'all': unknown verb 'built'. Use one of: mini-data"),
        (
            ("${captions}", "${capsions}"),
            r"step 'all': \$\{capsions\} is not an earlier step. Use one of: data, captions",
        ),
        (("seed: 0", "sede: 0"), r"step 'all': unknown key 'sede' \(did you mean 'seed'\?\)"),
        (("  all:", "  All!:"), "lower-case letters"),
        (("task: captioning,", "task: singing,"), "step 'captions': task: must be 'captioning' or 'reasoning'"),
        (("seed: 0", "seed: 0\n      out_dir: x"), "step 'all': out_dir cannot be set in a recipe"),
        (("${data}/warmup_reasoning.jsonl", "nowhere.jsonl"), "step 'reasoning' reads nowhere.jsonl, which does not"),
    ],
)
def test_mistakes_name_the_step_and_the_key(tmp_path, edit, says):
    path = write(tmp_path)
    path.write_text(path.read_text().replace(*edit))
    with pytest.raises(ValueError, match=says):
        run(path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("run_dir: x\nsteps: {}", "steps: must hold at least 1"),
        ("run_dir: x\nsteps: [a]", "steps: must be a mapping"),
        ("run_dir: x\nsteps: {a: b}", "steps.a: must be a mapping"),
        ("steps: {}", "run_dir is missing"),
    ],
)
def test_a_recipe_that_is_none_is_said(tmp_path, text, says):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=says):
        run(tmp_path / "r.yaml")


@pytest.mark.parametrize("load", [load_recipe, load_lab])
def test_extends_in_a_circle_or_of_no_path_is_one_clear_sentence(tmp_path, load):
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(ValueError, match=r"b\.yaml: extends forms a circle: a\.yaml -> b\.yaml -> a\.yaml"):
        load(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("extends: [a.yaml]")
    with pytest.raises(ValueError, match=r"c\.yaml: extends must be the path of one YAML file, got \['a\.yaml'\]"):
        load(tmp_path / "c.yaml")


def test_a_defaults_file_lies_beside_the_recipe_that_names_it(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "build.yaml").write_text("seed: 7")
    base = write(tmp_path, name="shared/base.yaml")
    text = base.read_text().replace("run: build", "run: build\n    defaults: build.yaml")
    base.write_text(text.replace("seed: 0", ""))
    (tmp_path / "small.yaml").write_text("extends: shared/base.yaml\nsteps: {data: {config: {sft: 2}}}")
    assert load_recipe(tmp_path / "small.yaml").steps[3].config.seed == 7


def test_a_second_run_at_the_same_time_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path)
    import sicog.curation.build.build as build

    def meanwhile(config):
        with pytest.raises(ValueError, match="is being written by another process"):
            run(path)
        return built(config)

    built = build.build
    monkeypatch.setattr(build, "build", meanwhile)
    run(path)
    assert len(list(read_records(tmp_path / "run" / "all", Example))) == 9


@pytest.mark.parametrize("name", ["mini", "mini-quick", "mini-rounds"])
def test_dry_run_of_the_shipped_recipes_needs_no_torch_and_writes_nothing(tmp_path, name):
    recipe = Path(__file__).parents[2] / "recipes" / f"{name}.yaml"
    code = (
        "import sys; from sicog.estimates.recipes import show_plan; from pathlib import Path; "
        "assert show_plan(Path(sys.argv[1])); "
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, recipe], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warmup-1: train (to do, after" in done.stdout
    assert "learning_rate:" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_report_of_an_unfinished_run_shows_what_there_is(tmp_path):
    from sicog.report.discover import report_run

    path = write(tmp_path)
    text = path.read_text() + "  report:\n    run: report\n    config: {funnel: [all, captions/chain]}\n"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a folder"):
        report_run(tmp_path / "run")
    assert (report_run(run(path, until="captions")) / "report.html").is_file()
    assert (tmp_path / "run" / "report-so-far").is_dir()
    run(path)
    assert report_run(tmp_path / "run") == tmp_path / "run" / "report"


COUNTS = {"align": 2, "sft": 1, "warmup_captions": 1, "warmup_reasoning": 2, "unlabelled": 1, "dev": 1, "test": 1}


def written_recipe(tmp_path, steps, **more):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), "steps": steps, **more}, sort_keys=False))
    return path


def test_a_step_comes_after_those_that_it_names_wherever_they_are_written(tmp_path):
    rows = {"run": "annotate", "config": {"task": "reasoning", "input": "${data}/warmup_reasoning.jsonl"}}
    kept = {"run": "build", "config": {"sources": [{"name": "a", "path": "${rows}/chain"}]}}
    data, other = ({"run": "mini-data", "config": {**COUNTS, "seed": seed}} for seed in (1, 2))
    path = written_recipe(tmp_path, {"kept": {**kept, "after": ["other"]}, "rows": rows, "data": data, "other": other})
    recipe = load_recipe(path)
    assert [step.name for step in recipe.steps] == ["data", "rows", "other", "kept"]
    assert recipe.steps[-1].depends_on == ("rows",) and recipe.steps[-1].after == ("other",)
    as_written = load_recipe(written_recipe(tmp_path, {"data": data, "other": other, "rows": rows}))
    assert [step.name for step in as_written.steps] == ["data", "other", "rows"]


def test_circles_and_strangers_are_refused(tmp_path):
    def build(of):
        return {"run": "build", "config": {"sources": [{"name": "x", "path": f"${{{of}}}/chain"}]}}

    with pytest.raises(ValueError, match=r"\$\{a\} is not an earlier step"):
        load_recipe(written_recipe(tmp_path, {"a": build("b"), "b": build("a")}))
    with pytest.raises(ValueError, match="after: 'nobody' is not an earlier step"):
        load_recipe(written_recipe(tmp_path, {"data": {"run": "mini-data", "config": COUNTS, "after": ["nobody"]}}))
