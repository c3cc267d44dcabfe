"""home.py: `~` is the home folder wherever a user names a file, not only where a shell writes it out."""

from pathlib import Path

from pydantic import BaseModel

from sicog.config.paths import NameOrPath, expand_home


class Model(BaseModel):
    name: NameOrPath
    other: NameOrPath | None = None


def test_a_name_that_may_be_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = Model(name="~/encoder", other="org/model~1")
    assert (found.name, found.other) == (f"{tmp_path}/encoder", "org/model~1")
    assert Model(name="https://a//b").name == "https://a//b"  # a text that is no path stays as it is
    assert expand_home(Path("~no-such-user/x")) == Path("~no-such-user/x")
