"""hub.py: a model of the hub is taken from the local cache, and how to get one that is not there is said."""

from pathlib import Path

import pytest

from sicog.model.hub import find_model, local_model
from sicog.training.config import ModelSource


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the hub with one model in it, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "models--some--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    return folder / "snapshots" / "abc"


def test_a_folder_is_itself_and_an_id_is_its_snapshot(tmp_path, cache):
    assert find_model(tmp_path) == tmp_path
    assert find_model(Path("some/model")) == cache
    source = ModelSource(vision_tower="some/model", language_model=tmp_path, turn_format="chatml").with_local_folders()
    assert (source.vision_tower, source.language_model, source.turn_format) == (cache, tmp_path, "chatml")


def test_what_is_not_there_is_said_with_what_to_do(cache):
    with pytest.raises(ValueError, match=r"model.checkpoint: other/model is neither .* run `hf download other/model`"):
        ModelSource(checkpoint="other/model").with_local_folders()
    for path in ("/no/such/folder", "runs/a/b", "nowhere"):
        assert find_model(Path(path)) is None
        with pytest.raises(ValueError, match=f"checkpoint: {path} does not exist"):
            local_model(Path(path), "checkpoint")
