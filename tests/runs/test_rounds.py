"""rounds.py through a recipe: names, references, pooling, order; the same keys for rounds that stay as they were."""

import pytest

from sicog.runs.recipe import load_recipe

RECIPE = """
run_dir: run
inputs: {{rows: {{path: rows.jsonl, rows: 5}}}}
rounds: {rounds}
steps:
  first: {{run: annotate, config: {{task: reasoning, input: "${{inputs.rows}}"}}}}
each_round:
  made: {{run: build, config: {{seed: 1, sources: [{{name: a, path: "${{previous.made|first}}/chain"}}]}}}}
  pooled: {{run: group, config: {{input: ["${{all.made}}/sub"]}}}}
  judged: {{run: promote, config: {{candidate: "${{made}}", incumbent: "${{previous.pooled|first}}"}}}}
then:
  last: {{run: group, config: {{input: ["${{all.pooled}}", "${{last.made}}", "${{first}}"]}}}}
"""


def steps(tmp_path, rounds=2, text=RECIPE):
    path = tmp_path / "r.yaml"
    path.write_text(text.format(rounds=rounds))
    return {step.name: step for step in load_recipe(path).steps}


def test_rounds_become_steps_that_name_each_other(tmp_path):
    found = steps(tmp_path)
    in_rounds = [f"round-{n}/{name}" for n in (1, 2) for name in ("made", "pooled", "judged")]
    assert list(found) == ["first", *in_rounds, "last"]
    assert str(found["first"].config.input) == "rows.jsonl"
    assert [str(found[f"round-{n}/made"].config.sources[0].path) for n in (1, 2)] == [
        "run/first/chain",
        "run/round-1/made/chain",
    ]
    assert [str(p) for p in found["round-1/pooled"].config.input] == ["run/round-1/made/sub"]
    assert [str(p) for p in found["round-2/pooled"].config.input] == ["run/round-1/made/sub", "run/round-2/made/sub"]
    assert found["round-2/pooled"].depends_on == ("round-1/made", "round-2/made")
    last = [str(p) for p in found["last"].config.input]
    assert last == ["run/round-1/pooled", "run/round-2/pooled", "run/round-2/made", "run/first"]
    assert str(found["round-2/made"].folder) == "run/round-2/made"


def test_what_comes_after_a_judgement_waits_for_it(tmp_path):
    found = steps(tmp_path)
    assert found["round-1/pooled"].after == ()
    assert found["round-2/made"].after == ("round-1/judged",) and found["last"].after == ("round-2/judged",)


def test_one_more_round_leaves_those_before_it_as_they_were(tmp_path):
    two, three = steps(tmp_path, 2), steps(tmp_path, 3)
    assert all(three[name].key == two[name].key for name in two if name != "last")
    assert len({three[f"round-{n}/pooled"].key for n in (1, 2, 3)}) == 3


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (("${{previous.made|first}}", "${{previous.made}}"), "'made' does not exist before the first round"),
        (("|first}}/chain", "|frist}}/chain"), "is not an earlier step. Use one of: first"),
        (('"${{all.made}}/sub"', '"${{all.made}}${{all.made}}"'), "names all rounds more than once"),
        (('candidate: "${{made}}"', 'candidate: "${{all.made}}"'), "Write it as an item of a list"),
        (("${{inputs.rows}}", "${{inputs.row}}"), "is not an input. Use one of: rows"),
        (("rounds: {rounds}", ""), "rounds and each_round must be set together"),
        (
            ("run: build,", "run: build, job: {{gpu: 2}},"),
            r"round-1/made': job: unknown key 'gpu' .did you mean 'gpus'",
        ),
    ],
)
def test_mistakes_say_what_to_write(tmp_path, edit, says):
    assert edit[0] in RECIPE
    with pytest.raises(ValueError, match=says):
        steps(tmp_path, text=RECIPE.replace(*edit))


def test_a_recipe_removes_steps_of_the_one_it_extends_and_adds_its_own(tmp_path):
    steps(tmp_path)
    (tmp_path / "v.yaml").write_text(
        'extends: r.yaml\nthen: {last: null, more: {run: group, config: {input: ["${first}"]}}}'
    )
    assert [step.name for step in load_recipe(tmp_path / "v.yaml").steps][-2:] == ["round-2/judged", "more"]
