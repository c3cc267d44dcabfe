"""validation.py: whatever is wrong with a config is said in plain words, with its key."""

import re

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from sicog.config import load_config, validate
from sicog.config.validation import first_validation_message, validation_message
from sicog.lab.arms import LabConfig
from sicog.records import Query
from sicog.runs.verbs import VERBS
from tests.config.test_keys import BY_NAME

WRONG = [object(), "\0x", None, [], [{}], {}, {"x": object()}, {"x": {}}, -1e9, 10**30, float("nan"), True, "", 1.5]
WRONG += [[1, 2, 3, 4], b"\xff"]
LIBRARY = re.compile(r"Input should|[Vv]alid |validation|Field|Tuple|Value error|ydantic|String should|instance|Extra")


@pytest.mark.parametrize("config", BY_NAME, ids=lambda config: config.__name__)
def test_the_librarys_own_words_never_reach_a_user(config):
    found = 0
    for name in config.model_fields:
        for value in WRONG:
            try:
                validate(config, {name: value}, "x")
            except ValueError as error:
                found += 1
                said = re.sub(r", got .*?(?=; |$)", "", str(error))
                assert not LIBRARY.search(said), said
    assert found >= len(config.model_fields)


@pytest.mark.parametrize(
    ("verb", "overrides", "says"),
    [
        ("select", [], "input is missing; out_dir is missing"),
        ("select", ["input=a", "out_dir=b"], "threshold is missing. Set threshold, for example 0.85"),
        ("build", ["sources=x"], "sources: give a list of mappings, such as sources=[{path: .., name: ..}], got 'x'"),
        ("score", ["checkpoint=null"], "checkpoint: must be a list, with [] for none, got null"),
        ("score", ["input=a", "out_dir=b", "workers=x"], "workers: must be an integer, got 'x'"),
        ("settle", ["input=a", "out_dir=b", "support={x: y}"], "support.x: must be a number, got 'y'"),
        (
            "alarms",
            ["out_dir=b", "watched={a: {selected: [x], share_kept: [1]}}"],
            "watched.a.share_kept: must be [number, number], got [1]",
        ),
        ("sample", ["top_p=2", "top_k=-1"], "top_p: must be at most 1, got 2; top_k: must be at least 0, got -1"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_config(verb, overrides, says):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        load_config(VERBS[verb].config_type(), None, overrides)
    assert str(error.value).startswith("command line: ")


def test_a_name_of_a_mapping_and_a_value_of_several_types():
    with pytest.raises(ValueError, match=r"learning_rates: each name must be 'vision_tower'.*got 'x'"):
        load_config(VERBS["train"].config_type(), None, ["learning_rates={x: 1}"])
    with pytest.raises(ValueError, match=r"arms\.a\.rows\.y\.run is missing"):
        validate(LabConfig, {"arms": {"a": {"says": "x", "rows": {"y": {}}}}}, "lab")


class Plain(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int


def test_without_a_config_and_of_a_record():
    with pytest.raises(ValidationError) as error:
        Plain.model_validate({"n": "x", "m": 1})
    assert validation_message(error.value) == "n: must be an integer, got 'x'; unknown key 'm'"
    with pytest.raises(ValidationError) as error:
        Query.model_validate({"id": "1", "task": 3, "images": []})
    assert first_validation_message(error.value) == "task: must be a text"
    with pytest.raises(ValidationError) as error:
        Query.model_validate_json("{")
    assert first_validation_message(error.value).startswith("row: is not valid JSON (EOF")
