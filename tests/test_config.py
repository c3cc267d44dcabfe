"""config.py: overrides, types, and unknown keys named with their nearest neighbour."""

from pathlib import Path

import pytest

from sicog.config import Config, apply_overrides, load_config


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


def test_overrides_do_not_change_their_source():
    source = {"inner": {"rate": 1}}
    apply_overrides(source, ["inner.rate=2"])
    assert source == {"inner": {"rate": 1}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("inner: {raet: 2}", r"unknown key 'inner.raet' \(did you mean 'rate'\?\)"),
        ("nothing_like_it: 2", r"unknown key 'nothing_like_it' \(known: out_dir, inner, flag\)"),
        ("flag: maybe", "flag: Input should be a valid boolean.*'maybe'"),
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


def test_identity_leaves_out_paths_and_volatile_values():
    class Stage(Config):
        out_dir: Path
        workers: int = 1
        k: int = 2

    assert Stage(out_dir=Path("a"), workers=3).identity() == {"k": 2}
