"""config.py: overrides, types, and unknown keys named with their nearest neighbour."""

import os
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from sicog.config import Config, apply_overrides, load_config, load_with_extends, load_yaml, validate
from sicog.training.config import TrainConfig


class Inner(Config):
    rate: float = 1.0
    names: list[str] = []


class Outer(Config):
    out_dir: Path = Path("x")
    inner: Inner = Inner()
    flag: bool = False


def test_overrides_reach_nested_keys_and_have_types():
    config = load_config(Outer, None, ["inner.rate=1e-4", "inner.names=[a, b]", "flag=true", "out_dir=a b"])
    assert config.inner.rate == 1e-4
    assert config.inner.names == ["a", "b"]
    assert config.flag is True
    assert config.out_dir == Path("a b")


@pytest.mark.parametrize(
    "name", ["my data #2/x.json", "a: b", "2026-11-21", "001", "[x", "@x", "*x.json", "1e5", "a, b"]
)
def test_a_path_or_text_is_taken_as_written(name):
    class Texts(Config):
        path: Path
        text: str | None = None
        inner: Inner = Inner()

    config = load_config(Texts, None, [f"path={name}", f"text={name}"])
    assert (config.path, config.text) == (Path(name), name)
    assert load_config(Texts, None, ["path=x", "text=null"]).text is None


def test_a_list_of_texts_is_cut_at_commas_or_is_yaml():
    class Lists(Config):
        paths: tuple[Path, ...] = ()
        names: tuple[str, ...] | None = None

    config = load_config(Lists, None, ["paths=my runs #1/a,b: c", "names=[x, y]"])
    assert config.paths == (Path("my runs #1/a"), Path("b: c")) and config.names == ("x", "y")
    assert load_config(Lists, None, ["paths="]).paths == ()


def test_overrides_do_not_change_their_source():
    source = {"inner": {"rate": 1}}
    apply_overrides(source, ["inner.rate=2"])
    assert source == {"inner": {"rate": 1}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("inner: {raet: 2}", r"unknown key 'inner.raet' \(did you mean 'rate'\?\)"),
        ("nothing_like_it: 2", r"unknown key 'nothing_like_it' \(known: out_dir, inner, flag\)"),
        ("flag: maybe", "flag: must be true or false.*'maybe'"),
        ("- 1", "must hold a mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path, text, says):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        load_config(Outer, path)
    assert str(path) in str(error.value)


def test_a_missing_file_and_a_bad_override_are_said(tmp_path):
    with pytest.raises(ValueError, match="no such config file"):
        load_config(Outer, tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="not of the form key=value"):
        load_config(Outer, None, ["flag"])
    with pytest.raises(ValueError, match=r"override 'flag=\[x' is not valid YAML"):
        load_config(Outer, None, ["flag=[x"])
    with pytest.raises(ValueError, match="is a folder, not a YAML file"):
        load_config(Outer, tmp_path)


def test_identity_leaves_out_paths_and_volatile_values():
    class Stage(Config):
        out_dir: Path
        workers: int = 1
        k: int = 2

    assert Stage(out_dir=Path("a"), workers=3).identity() == {"k": 2}


def test_a_config_extends_another_beside_it(tmp_path):
    (tmp_path / "base.yaml").write_text("stage: align\nlearning_rate: 1.0e-3\ndevice_batch: 2\nmodel: {checkpoint: c}")
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "own.yaml"
    path.write_text("extends: ../base.yaml\nlearning_rate: 2.0e-3\nmodel: {config: {}}")
    config = load_config(TrainConfig, path, ["out_dir=r", "data.path=d"])
    assert (config.learning_rate, config.device_batch, str(config.model.checkpoint)) == (2e-3, 2, "c")


def test_a_bare_key_on_is_a_key(tmp_path):
    (tmp_path / "c.yaml").write_text("launch: [{on: slurm}]\n")
    assert load_yaml(tmp_path / "c.yaml") == {"launch": [{"on": "slurm"}]}
    assert apply_overrides({}, ["launch={on: slurm}"]) == {"launch": {"on": "slurm"}}


class Item(Config):
    n: int


class Lists(Config):
    words: tuple[Literal["a", "b"], ...] = ()
    items: tuple[Item, ...] = Field(default=(), min_length=1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"words": "a"}, r"words: give a list in brackets, such as words=\[a\], got 'a'$"),
        ({"items": [{"n": "x"}]}, r"^x: items\.0\.n: must be an integer[^;]*$"),
        ({"items": []}, "items: must hold at least 1"),
    ],
)
def test_a_mistake_in_a_list_is_said_once_and_brackets_are_asked_for(values, says):
    with pytest.raises(ValueError, match=says):
        validate(Lists, values, "x")


class Paths(Config):
    out_dir: Path = Path()
    inputs: tuple[Path, ...] = ()
    by_name: dict[str, Path] = {}
    text: str = "~/x"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = Paths.model_validate({"out_dir": "~/mix", "inputs": ["~/a", "b"], "by_name": {"x": "~/c"}})
    assert (config.out_dir, config.inputs) == (tmp_path / "mix", (tmp_path / "a", Path("b")))
    assert config.by_name == {"x": tmp_path / "c"} and config.text == "~/x"
    assert Paths(out_dir=Path("~no-such-user/x")).out_dir == Path("~no-such-user/x")
    with pytest.raises(ValueError, match=r"the name caf\\xe9\.json is not UTF-8, .*; rename it"):
        load_config(Paths, None, ["out_dir=" + os.fsdecode(b"caf\xe9.json")])
    (tmp_path / "base.yaml").write_text("text: below")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.yaml").write_text("extends: ~/base.yaml")
    assert load_config(Paths, tmp_path / "sub" / "own.yaml").text == "below"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a.yaml": "extends: a.yaml"}, r"circle: a\.yaml -> a\.yaml"),
        ({"a.yaml": "extends: b.yaml", "b.yaml": "extends: ./a.yaml"}, r"b\.yaml: extends forms a circle"),
        ({"a.yaml": "extends: [b.yaml]"}, "extends must be the path of one YAML file"),
    ],
)
def test_extends_in_a_circle_or_of_no_path_is_one_clear_sentence(tmp_path, files, says):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says):
        load_with_extends(tmp_path / "a.yaml")


class Numbers(Config):
    rate: float = 0.0
    seed: int = 0
    seeds: tuple[int, ...] = ()
    anything: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rate=.inf", "rate: must be a finite number"),
        ("rate=.nan", "rate: must be a finite number"),
        ("seed=123456789012345678901", "seed: must be a number of at most 64 bits"),
        ("seeds=[1, -9223372036854775809]", "seeds: must be a number of at most 64 bits"),
        ("anything={a: [9223372036854775808]}", "anything: must be a number of at most 64 bits"),
        ("anything={a: {b: .nan}}", "anything: holds a number that is not finite"),
    ],
)
def test_numbers_that_nothing_can_be_done_with_are_refused(override, says):
    with pytest.raises(ValueError, match=says):
        load_config(Numbers, None, [override])
    assert load_config(Numbers, None, [f"seed={2**63 - 1}"]).seed == 2**63 - 1


class Named(Config):
    also = {"input": "inner.names"}
    formerly = {"run_dir": "out_dir"}
    out_dir: Path = Path()
    inner: Inner = Inner()


def test_a_key_may_be_given_by_its_usual_name_and_is_recorded_by_its_own(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("out_dir: a\ninput: [x]\n")
    config = load_config(Named, tmp_path / "c.yaml")
    assert config.model_dump(mode="json") == {"out_dir": "a", "inner": {"rate": 1.0, "names": ["x"]}}
    assert config.identity() == Named(out_dir=Path("b"), inner=Inner(names=["x"])).identity()
    assert load_config(Named, tmp_path / "c.yaml", ["out_dir=b", "inner.names=y"]).inner.names == ["y"]
    assert load_config(Named, None, ["input=y"]).inner.names == ["y"]
    assert not capsys.readouterr().err


def test_an_old_name_of_a_key_still_works_and_a_line_says_the_new_one(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("run_dir: a\n")
    says = "  run_dir is now called out_dir; the old name still works\n"
    assert load_config(Named, tmp_path / "c.yaml").out_dir == Path("a")
    assert capsys.readouterr().err == says
    assert load_config(Named, tmp_path / "c.yaml", ["run_dir=1e5"]).out_dir == Path("1e5")
    assert capsys.readouterr().err == says
    assert Named.model_validate({"run_dir": "a"}).out_dir == Path("a")  # what an older version recorded
    assert not capsys.readouterr().err
    with pytest.raises(ValueError, match="run_dir is another name of out_dir. Give only one of them"):
        Named.model_validate({"out_dir": "a", "run_dir": "b"})


def test_a_training_takes_the_names_of_the_other_steps():
    usual = ["input=d.json", "image_folder=i", "out_dir=r", "stage=sft", "learning_rate=1", "device_batch=1"]
    config = load_config(TrainConfig, None, [*usual, "model.checkpoint=c"])
    assert (config.data.path, config.data.image_folder, config.out_dir) == (Path("d.json"), Path("i"), Path("r"))
