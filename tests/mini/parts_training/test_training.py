"""Training the mini parts: a stopped one keeps what was finished, packing is all or nothing, a GPU is used."""

import hashlib

import pytest
import torch

from sicog.mini.parts_training import fit, train_language, train_vision
from sicog.mini.parts_training import mini_parts as module
from sicog.mini.parts_training.mini_parts import LANGUAGE, SHIPPED, VISION, WEIGHTS, mini_parts, pack, unpack
from sicog.mini.parts_training.parts_config import LanguagePartConfig, MiniPartsConfig, VisionPartConfig
from sicog.mini.tokenizer import train_tokenizer
from sicog.stages.storage import read_json, write_json

TINY_VISION = VisionPartConfig(width=32, layers=2, mlp_width=32, steps=3, images_per_step=3, measured=10)
TINY_LANGUAGE = LanguagePartConfig(width=32, layers=1, mlp_width=32, vocabulary=400, steps=3, measured=2)


def tiny(folder, **values):
    values = {"vision": TINY_VISION, "language": TINY_LANGUAGE, **values}
    return MiniPartsConfig(out_dir=folder, source="train", workers=0, **values)


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


class KilledError(Exception):
    """As if the process had been killed there."""


def stop(*_, **__):
    raise KilledError


@pytest.mark.nightly
def test_a_stopped_training_keeps_the_parts_that_were_finished(tmp_path, monkeypatch):
    tokenizer = train_tokenizer(0, TINY_LANGUAGE.vocabulary)  # it takes longer than all the rest
    monkeypatch.setattr(module, "train_tokenizer", lambda *_: tokenizer)
    undisturbed = mini_parts(tiny(tmp_path / "undisturbed"))
    config = tiny(tmp_path / "stopped")
    for at, never in (("train_language", None), ("measure_language", "train_vision")):
        with monkeypatch.context() as patch:
            patch.setattr(module, at, stop)
            if never:
                patch.setattr(module, never, lambda *_: pytest.fail("trained again"))
            with pytest.raises(KilledError):
                mini_parts(config)
    for name in ("train_vision", "train_language"):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("trained again"))
    mini_parts(config)
    manifest = read_json(config.out_dir / "manifest.json")  # the digests of all files, and the figures
    assert manifest == read_json(undisturbed / "manifest.json")
    assert manifest["figures"][VISION]["things"] > 0 and manifest["figures"][LANGUAGE]["items"] == 2


def test_a_part_is_trained_again_when_it_is_of_another_config_or_not_whole(tmp_path):
    config = tiny(tmp_path)
    (tmp_path / VISION).mkdir()
    (tmp_path / VISION / "model.safetensors").touch()
    assert module._finished_figures(config, VISION) is None  # no marker: it was being written
    module._mark_finished(config, VISION, {"colour": 0.5})
    assert module._finished_figures(config, VISION) == {"colour": 0.5}
    assert module._finished_figures(config, LANGUAGE) is None
    for other in (tiny(tmp_path, seed=1), tiny(tmp_path, vision=TINY_VISION.model_copy(update={"steps": 4}))):
        assert module._finished_figures(other, VISION) is None
    (tmp_path / VISION / "model.safetensors").unlink()
    assert module._finished_figures(config, VISION) is None


def test_packing_replaces_all_files_or_none(tmp_path, monkeypatch):
    folder, made = tmp_path / "shipped", tmp_path / "made"
    write_json(made / "manifest.json", {"figures": unpack(SHIPPED, made)})
    pack(made, folder)
    before = digests(folder)
    assert before.keys() == digests(SHIPPED).keys() and before[WEIGHTS] == digests(SHIPPED)[WEIGHTS]
    assert (folder / WEIGHTS).stat().st_mode & 0o777 == 0o644
    write_json(made / "manifest.json", {"figures": {"other": 1}})
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", stop)
        with pytest.raises(KilledError):
            pack(made, folder)
    assert digests(folder) == before and sorted(p.name for p in tmp_path.iterdir()) == ["made", "shipped"]
    order, replace = [], module.Path.replace
    monkeypatch.setattr(module.Path, "replace", lambda self, to: order.append(to) or replace(self, to))
    pack(made, folder)
    assert [path.name for path in order if path.parent == folder][-1] == WEIGHTS
    assert read_json(folder / "figures.json") == {"other": 1} and sorted(tmp_path.iterdir()) == [made, folder]


@pytest.mark.nightly
def test_a_training_that_was_stopped_resumes_to_the_same_weights(tmp_path, monkeypatch):
    """Killed after a saved state, in the middle of what follows it."""
    monkeypatch.setattr(fit, "_SAVED_EVERY", 0.0)
    tokenizer, config = train_tokenizer(0, 400), TINY_LANGUAGE.model_copy(update={"steps": 6})

    def train(name):
        return train_language.train_language(config, tokenizer, 0, tmp_path / name)

    whole, state = train("whole.pt"), tmp_path / "stopped.pt"
    assert not (tmp_path / "whole.pt").exists()
    loss, calls = train_language.text_loss, []
    with monkeypatch.context() as patch:
        patch.setattr(
            train_language, "text_loss", lambda *a: calls.append(a) or (stop() if len(calls) == 4 else loss(*a))
        )
        with pytest.raises(KilledError):
            train("stopped.pt")
    assert torch.load(state, weights_only=True)["step"] == 3
    monkeypatch.setattr(train_language, "text_loss", lambda *a: calls.append(a) or loss(*a))
    resumed = train("stopped.pt")
    assert len(calls) == 4 + 3 and not state.exists()
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_gpu_is_used_when_there_is_one_and_every_batch_moves_there(monkeypatch, tmp_path):
    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert fit.device() == torch.device(name)
    moved = []
    for batch in (train_vision.PatchBatch, train_language.TextBatch):
        to = batch.to
        monkeypatch.setattr(batch, "to", lambda self, on, to=to: moved.append((type(self), on)) or to(self, on))
    train_vision.train_vision(TINY_VISION, 0, tmp_path / "state.pt")
    assert moved == [(train_vision.PatchBatch, torch.device("cpu"))] * TINY_VISION.steps
    train_language.train_language(TINY_LANGUAGE, train_tokenizer(0, 400), 0, tmp_path / "state.pt")
    assert moved[-3:] == [(train_language.TextBatch, torch.device("cpu"))] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_parts_trained_on_a_gpu_lie_on_the_cpu(tmp_path):
    tower = train_vision.train_vision(TINY_VISION, 0, tmp_path / "vision.pt")
    model = train_language.train_language(TINY_LANGUAGE, train_tokenizer(0, 400), 0, tmp_path / "language.pt")
    assert tower.device.type == model.device.type == "cpu"
    figures = read_json(mini_parts(tiny(tmp_path)) / "manifest.json")["figures"]
    assert figures[LANGUAGE]["items"] == 2
