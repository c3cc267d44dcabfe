"""The shipped recipes: each is whole and typed without its data, says what it lacks, and holds the paper's values."""

import json
import tarfile
from pathlib import Path

import pytest

from sicog.config import load_yaml
from sicog.data.config import NoiseConfig
from sicog.estimates.costs import Cost, cost_of, most_disk
from sicog.estimates.counts import Counts, Rows
from sicog.estimates.recipes import show_plan
from sicog.estimates.shapes import Shapes
from sicog.evaluation.config import EvalConfig
from sicog.runs.recipe import load_recipe, texts_of

RECIPES = Path(__file__).parents[2] / "recipes"
WHOLE = sorted(p.stem for p in RECIPES.glob("*.yaml") if "run_dir" in load_yaml(p))
PAPERS = ("sicog-7b", "sicog-7b-lowres", "sicog-llama31-8b", "sicog-7b-cot", "small-gpu")


def steps(name, *overrides):
    return {step.name: step.config for step in load_recipe(RECIPES / f"{name}.yaml", overrides).steps}


@pytest.mark.parametrize("name", WHOLE)
def test_a_recipe_is_typed_and_its_references_resolve_without_the_data(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert {*PAPERS, "mini", "mini-quick", "mini-rounds", "mini-rounds-quick"} <= {*WHOLE}
    assert len(steps(name)) > 10
    assert not list(tmp_path.iterdir())


def test_the_papers_values():
    found = steps("sicog-7b")
    trained = {name: c for name, c in found.items() if hasattr(c, "stage")}
    assert [c.stage for c in trained.values()] == ["align", "sft", "warmup", "warmup", "pretrain", "sft"]
    for name, config in trained.items():
        align = name == "align"
        assert (config.rows_per_update(32), config.learning_rate) == ((256, 2e-4) if align else (128, 2e-5))
        assert config.trainable == (("projector",) if align else ("vision_tower", "projector", "language_model"))
        assert (config.slicing, config.warmup_ratio, config.weight_decay) == (not align, 0.03, 0.0)
        assert (config.epochs, config.max_length) == (1, 4096)
    assert found["next-pretrain"].model.projector == found["align"].out_dir  # not from a warm-up model
    for name, styles in (("captions", {"cod": 2, "dd": 1}), ("answers", {"cot": 2, "direct": 1})):
        config = found[name]
        assert {s.style: s.n for s in config.wanted_styles} == styles
        assert (config.temperature, config.top_p, config.beams, config.max_new_tokens) == (0.7, 0.9, 1, 1200)
        assert (config.top_k, config.repetition_penalty) == (20, 1.05)
    assert found["curated"].multi_turn is not None and {s.name for s in found["curated"].sources} == {
        "captions", "answers", "texts"
    }  # fmt: skip
    judged = [c for c in found.values() if isinstance(c, EvalConfig)]
    assert [(c.suite, c.checkpoint) for c in judged] == [("paper", found[n].out_dir) for n in ("base", "next")]
    teacher = found["warmup-captions"].teacher
    assert (teacher.endpoint.model, teacher.temperature, teacher.max_tokens) == ("gpt-4o", 0.2, 2048)
    inputs = load_yaml(RECIPES / "sicog-7b.yaml")["inputs"]
    wanted = {"align": 558128, "unlabelled_images": 118000, "unlabelled_questions": 165000}
    assert wanted | {"captions": 35000, "reasoning": 35000, "sft": 858000} == {
        name: inputs[name]["rows"] for name in (*wanted, "captions", "reasoning", "sft")
    }


def test_the_variants_differ_where_they_say():
    main = steps("sicog-7b")
    low, llama, small = (steps(name) for name in ("sicog-7b-lowres", "sicog-llama31-8b", "small-gpu"))
    for name in ("align", "base", "next-pretrain"):
        assert low[name].model.config == {"projector_type": "mlp", "image_mode": "square"}
        assert main[name].model.config == {"projector_type": "resampler", "image_mode": "slices"}
        assert (llama[name].model.turn_format, main[name].model.turn_format) == ("llama3", "chatml")
        assert "Llama-3.1-8B" in str(llama[name].model.language_model)
    for name in ("base", "perception", "reasoner", "next-pretrain", "next"):
        assert small[name].lora is not None and small[name].trainable == ("projector", "language_model")
    cot = steps("sicog-7b-cot")
    assert cot["cot"].model.checkpoint.name == "next"  # after stage 2
    assert cot["cot"].data.path.parts[-2:] == ("cot-rows", "chain")


@pytest.mark.parametrize("name", ["mini", "mini-rounds"])
def test_no_stage_trains_on_the_splits_that_judge_and_the_test_split_decides_nothing(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    by_name = {step.name: step for step in recipe.steps}
    data = by_name["data"].folder

    def splits(step):
        """Of which splits the rows are that reach a step; a threshold is a number, not a row."""
        texts = [Path(text).relative_to(data).name for text in texts_of(step.config.model_dump(mode="json"))
                 if data in Path(text).parents]  # fmt: skip
        own = {step.config.split} if step.verb.name == "mini-eval" else {t.split("_")[0] for t in texts}
        before = [by_name[n] for n in step.depends_on if by_name[n].verb.name not in ("sweep", "thresholds")]
        return own.union(*map(splits, before))

    trained = {step.name: splits(step) for step in recipe.steps if step.verb.name == "train"}
    assert len(trained) > 5 and not {"dev", "test"} & set().union(*trained.values())
    assert {"align.json", "sft.json", "unlabelled"} <= trained["round-2/next" if "rounds" in name else "next"]
    verbs = ("sweep", "thresholds", "promote")
    deciding = {step.name: splits(step) for step in recipe.steps if step.verb.name in verbs}
    assert len(deciding) >= 2 and not any("test" in found for found in deciding.values())
    assert any("test" in splits(step) for step in recipe.steps if step.verb.name == "mini-eval")


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))


@pytest.mark.parametrize("name", PAPERS)
def test_a_plan_without_data_says_what_to_get_and_what_it_will_take(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert not show_plan(RECIPES / f"{name}.yaml", ["launcher.on=slurm"])
    out = capsys.readouterr().out
    missing = out[out.index("MISSING") :]
    for given in recipe.inputs.values():
        assert given.path in missing and given.get in missing
    trained = [line for line in out.splitlines() if line.startswith("│ next-pretrain")]
    assert len(trained) == 1
    cells = [cell.strip() for cell in trained[0].split("│")]
    assert cells[4].startswith("~ ") and _number(cells[7]) > 0.01  # rows as assumed, GPU-hours
    assert cells[8] == ("1" if name == "small-gpu" else "32")
    assert float(cells[10]) < 80  # GiB a GPU
    disk = [_number(line.split("│")[9]) for line in out.splitlines() if line.startswith("│") and " train " in line]
    (all_steps,) = [line for line in out.splitlines() if line.startswith("│ all that is computed")]
    assert max(disk) < _number(all_steps.split("│")[9]) < sum(disk)  # checkpoints go when a training is done
    assert not list(tmp_path.iterdir())


def test_a_training_of_so_many_updates_takes_the_same_on_any_number_of_rows():
    def hours(rows, *overrides):
        recipe = load_recipe(RECIPES / "small-gpu.yaml", overrides)
        (step,) = (step for step in recipe.steps if step.name == "align")
        return cost_of(step, Rows(rows, "counted"), Shapes(recipe)).hours

    assert hours(5000) == pytest.approx(5 * hours(1000))
    assert hours(5000, "steps.align.config.max_steps=3") == hours(1000, "steps.align.config.max_steps=3") < hours(1000)


def test_disk_is_what_lies_there_at_once():
    def cost(disk, left):
        return Cost(tokens=0, hours=0, disk=disk, left=left, memory=0, devices=1)

    assert most_disk([cost(10, 1), cost(8, 2), cost(9, 9)]) == 12
    assert most_disk([]) == 0


def test_a_plan_counts_the_rows_that_are_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    rows = [
        {"id": str(i), "image": "a.png", "conversations": [{"from": "human", "value": "<image>"}]} for i in range(7)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    path = tmp_path / "r.yaml"
    path.write_text(
        f"""
run_dir: {tmp_path}/run
inputs: {{images: {{path: {tmp_path}/rows.json, rows: 8}}, missing: {{path: {tmp_path}/no.json}}}}
assume: {{model: {RECIPES}/configs/sicog-7b.json}}
steps:
  asked:
    run: sample
    config: {{task: captioning, engine: openai, endpoint: {{model: m}}, input: "${{inputs.images}}"}}
  kept: {{run: select, config: {{input: "${{asked}}", threshold: 0.8}}}}
"""
    )
    assert show_plan(path)  # an input that no step names need not be there
    cells = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert "7 (not as expected)" in cells["images"] and " 8 " in cells["images"]
    assert " 7 " in cells["asked"] and "<= 7" in cells["kept"] and "~ 4" in cells["kept"]


def test_a_plan_counts_rows_of_columns_and_of_tars(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "metadata.csv").write_text("file_name,text\na.png,A cat\nb.png,A dog\n")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("a.json", "a.png", "b.json", "b.png", "c.json"):
            archive.addfile(tarfile.TarInfo(name))
    (tmp_path / "cut.tar").write_bytes(b"no tar")
    path = tmp_path / "r.yaml"
    path.write_text(f"{{run_dir: {tmp_path}/run, steps: {{d: {{run: mini-data}}}}}}")
    counts = Counts(load_recipe(path))
    found = [counts.at(tmp_path / name) for name in ("pictures", "x.tar", "cut.tar")]
    assert [rows and str(rows) for rows in found] == ["2", "3", None]


def test_the_levers_that_the_paper_does_not_have(tmp_path):
    main, claims = steps("sicog-7b"), steps("sicog-7b-claims")
    assert main["captions"].closer is None and main["answers"].context is None
    assert main["next-pretrain"].noise == NoiseConfig()
    assert claims["captions"].candidates_per_query == 10 and claims["answers"].candidates_per_query == 7
    assert claims["answers"].context.path.name == "captions-settled"
    by_name = {step.name: step for step in load_recipe(RECIPES / "sicog-7b-claims.yaml").steps}
    assert "captions-gap" in by_name["next-pretrain"].after
