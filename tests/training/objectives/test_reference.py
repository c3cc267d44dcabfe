"""Reference log-probabilities as a data step: drops, resume, refusal of other inputs, another reference model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from preference_pairs import dpo_values, make_pairs
from tiny import tiny_checkpoint

from sicog.model import load_checkpoint
from sicog.records import PreferencePair, ReferencedPair, Turn
from sicog.stages.storage import read_json, read_records
from sicog.training.config import TrainConfig
from sicog.training.objectives.reference import ReferenceBlock, reference_log_probs
from sicog.training.train import load_pairs, train

MakeConfig = Callable[..., TrainConfig]


def long_pair(name: str, **changes: Any) -> PreferencePair:
    prompt = (Turn(role="user", text="What?", images_at=(0,)),)
    values = {"id": name, "images": ("1.png",), "prompt": prompt, "chosen": "red", "rejected": "blue", **changes}
    return PreferencePair.model_validate(values)


def test_pairs_that_cannot_be_used_are_dropped_whole(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    (data_dir / "images" / "broken.png").write_bytes(b"no image")
    (data_dir / "images" / "cut.png").write_bytes((data_dir / "images" / "1.png").read_bytes()[:400])
    bad = [
        long_pair("missing", images=("none.png",)),
        long_pair("broken", images=("broken.png",)),
        long_pair("cut", images=("cut.png",)),
        long_pair("refused", images=("../1.png",)),
        long_pair("long", rejected="red circle " * 900),  # never cut
    ]
    values = dpo_values(data_dir, tmp_path / "pairs", [*make_pairs(), *bad])
    values["data"] |= {"max_dropped_share": 0.5}
    run_dir = train(config(**{**values, "max_steps": 1}, max_length=1000))
    manifest = read_json(run_dir / "manifest.json")
    reasons = {"image_missing": 1, "image_broken": 2, "image_refused": 1, "too_long": 1}
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (17, 12, reasons)


def test_lengths_are_those_of_both_conversations(
    config: MakeConfig, data_dir: Path, tmp_path: Path, tiny_dir: Path
) -> None:
    settings = config(**dpo_values(data_dir, tmp_path / "pairs"))
    processor = load_checkpoint(tiny_dir)[1]
    read = load_pairs(settings, processor, *reference_log_probs(settings))
    for index, pair in enumerate(make_pairs()):
        row_id, documents = read.dataset[index]
        assert row_id == pair.id == read.dataset.ids([index])[0]
        texts = [
            processor.decode([t for t, label in zip(d.input_ids, d.labels, strict=True) if label >= 0])
            for d in documents
        ]
        assert texts == [pair.chosen.strip(), pair.rejected.strip()]
        assert read.lengths.tokens[index] == sum(len(d.input_ids) for d in documents)
        assert read.lengths.supervised[index] == sum(label != -100 for d in documents for label in d.labels)
        assert read.lengths.views[index] == sum(len(d.view_sizes) for d in documents)
        patches = sum(len(d.pixel_values) for d in documents if d.pixel_values is not None)
        assert read.lengths.patches[index] == patches and bool(patches) == bool(pair.images)


def test_what_is_finished_is_not_computed_again(
    config: MakeConfig, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(24) * 2  # three blocks
    values = dpo_values(data_dir, tmp_path / "pairs", pairs)
    whole, _ = reference_log_probs(config(**values, out_dir=tmp_path / "whole"))
    blocks: list[int] = []

    def stopping(self: ReferenceBlock, block: Any) -> Any:
        blocks.append(len(block))
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return original(self, block)

    original = ReferenceBlock.__call__
    monkeypatch.setattr(ReferenceBlock, "__call__", stopping)
    settings = config(**values, out_dir=tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        reference_log_probs(settings)
    folder, _ = reference_log_probs(settings)
    assert blocks == [16, 16, 16, 16]  # the second one twice
    reference_log_probs(settings)
    assert len(blocks) == 4
    for name in ("shard-00000.jsonl", "manifest.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_other_pairs_or_weights_are_refused(config: MakeConfig, data_dir: Path, tmp_path: Path) -> None:
    values = dpo_values(data_dir, tmp_path / "pairs")
    reference_log_probs(config(**values))
    other = dpo_values(data_dir, tmp_path / "others", make_pairs(8))
    with pytest.raises(ValueError, match=r"belongs to another run \(inputs.data.path was"):
        reference_log_probs(config(**other))
    checkpoint = {"checkpoint": tiny_checkpoint(tmp_path / "other", seed=1)}
    with pytest.raises(ValueError, match=r"belongs to another run \(inputs.model.checkpoint was"):
        reference_log_probs(config(**values, model=checkpoint))


def test_another_reference_model(config: MakeConfig, data_dir: Path, tiny_dir: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    values = dpo_values(data_dir, tmp_path / "pairs")
    found = {}
    for name, changes in (
        ("own", {}),
        ("given", {"dpo": {"reference": other}}),
        ("other", {"model": {"checkpoint": other}}),
    ):
        folder, _ = reference_log_probs(config(**values, out_dir=tmp_path / name, **changes))
        found[name] = [(row.chosen_log_prob, row.rejected_log_prob) for row in read_records(folder, ReferencedPair)]
    assert found["given"] == found["other"] != found["own"]
    coarser = tiny_checkpoint(tmp_path / "coarser", query_grid=3)
    with pytest.raises(ValueError, match="another vocabulary or query grid"):
        reference_log_probs(config(**values, out_dir=tmp_path / "x", dpo={"reference": coarser}))
