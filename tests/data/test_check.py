"""`sicog data check`: counts, drops with their first ids, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from sicog.cli import app
from sicog.data import measure as measuring
from sicog.data.check import CheckConfig, check
from sicog.records import Query
from sicog.stages.storage import read_json, write_dataset
from sicog.training.config import TrainConfig

RUNNER = CliRunner()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Eight rows: two with one image, one with two, one text-only; four unusable."""
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])

    def row(number: int, *images: str) -> dict[str, Any]:
        question = {"from": "human", "value": "<image>" * len(images) + "one two three"}
        return {"id": f"r{number}", "image": list(images), "conversations": [question, {"from": "gpt", "value": "yes"}]}

    given = [row(0, "a.png"), row(1, "a.png"), row(2, "a.png", "a.png"), row(3)]
    broken = [row(4, "none.png"), row(5, "cut.png"), row(6, "/x.png"), {"id": "r7"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(given + broken))
    return path


def test_a_report_without_a_tokenizer(rows: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "report.json"
    command = ["data", "check", str(rows), "--image-folder", str(tmp_path), "--out", str(out)]
    done = RUNNER.invoke(app, [*command, f"data.cache_dir={cache}"])
    assert done.exit_code == 1, done.output
    assert "4 of 8 rows can be used" in done.output and "image_missing" in done.output and "r4: " in done.output
    report = read_json(out)
    assert (report["rows_in"], report["rows_usable"], report["left_out"]) == (8, 4, 0)
    source = report["sources"][0]
    assert (source["rows"], source["usable"], source["text_only"]) == (8, 4, 1)
    assert (source["images"], source["turns"]) == (7, 14)  # of the seven rows that could be read
    assert {reason: found["rows"] for reason, found in report["dropped"].items()} == {
        "no_turns": 1,
        "image_missing": 1,
        "image_broken": 1,
        "image_refused": 1,
    }
    assert report["dropped"]["image_missing"]["first"][0]["id"] == "r4"
    assert report["words"]["bins"] == [[4, 8, 4]] and report["words"]["total"] == 16
    assert report["views"]["total"] == 4


def test_all_usable_is_0_and_unreadable_is_one_clear_sentence(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text(json.dumps(json.loads(rows.read_text())[:4]))
    arguments = ["data", "check", str(tmp_path / "good.json"), "--image-folder", str(tmp_path)]
    assert RUNNER.invoke(app, arguments).exit_code == 0
    with pytest.raises(ValueError, match="no such file"):  # `sicog` prints it and exits with 2
        RUNNER.invoke(app, ["data", "check", str(tmp_path / "none.json")], catch_exceptions=False)


def test_training_finds_what_the_check_has_measured(
    rows: Path, tmp_path: Path, cache: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sicog.training.load import load_model
    from sicog.training.train import load_rows

    data = {"path": rows, "image_folder": tmp_path, "cache_dir": cache, "max_dropped_share": 1}
    assert not check(CheckConfig.model_validate({"data": data, "checkpoint": tiny_dir}))
    monkeypatch.setattr(measuring, "_measure_all", lambda *_: pytest.fail("measured again"))
    model = {"checkpoint": tiny_dir}
    values = {"stage": "sft", "out_dir": tmp_path / "run", "model": model, "learning_rate": 1e-3, "device_batch": 1}
    config = TrainConfig.model_validate({**values, "data": data})
    assert len(load_rows(config, load_model(config.model)[1]).dataset) == 4


def test_rows_of_other_kinds_are_checked_as_what_they_are(tmp_path: Path, cache: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    asked = {"conversations": [{"from": "human", "value": "<image>\nWhat?"}]}
    captioned = {
        "conversations": [{"from": "human", "value": "<image>\nPlease generate a detailed caption of this image."}]
    }
    pair = {"prompt": "What?", "chosen": "a", "rejected": "b"}
    for kind, verb, row in (
        ("unlabelled images", "sicog sample task=captioning", {}),
        ("unlabelled images", "sicog sample task=captioning", captioned),
        ("unlabelled questions", "sicog sample task=reasoning", asked),
        ("captions to annotate", "sicog annotate", {"caption": "A thing."}),
        ("candidates to import", "sicog import-candidates", {**asked, "candidates": ["a", "b"]}),
        ("preference pairs", "uhdv1-dpo.sh", pair),
    ):
        rows: list[dict[str, Any]] = [{"id": name, "image": f"{name}.png", **row} for name in "aab"]
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        arguments = ["data", "check", str(tmp_path / "rows.json"), "--image-folder", str(tmp_path)]
        done = RUNNER.invoke(app, [*arguments, f"data.cache_dir={cache}", "--out", str(tmp_path / "report.json")])
        assert done.exit_code == 1 and f"read as {kind}, for" in done.output and verb in done.output
        report = read_json(tmp_path / "report.json")
        dropped = {reason: found["rows"] for reason, found in report["dropped"].items()}
        repeated = {} if kind == "preference pairs" else {"duplicate_id": 1}  # training joins nothing by id
        assert dropped == {"image_missing": 1, **repeated} and report["rows_in"] == 3
        assert (report["sources"][0]["images"], report["sources"][0]["text_only"]) == (3 - len(repeated), 0)
        (tmp_path / "rows.json").write_text(json.dumps(rows[:1]))
        assert RUNNER.invoke(app, arguments).exit_code == 0


def test_datasets_of_ours_are_known_by_their_records(tmp_path: Path, cache: Path) -> None:
    write_dataset(tmp_path / "queries", [Query(id="1", task="reasoning", question="What?")])
    done = RUNNER.invoke(app, ["data", "check", str(tmp_path / "queries"), f"data.cache_dir={cache}"])
    assert done.exit_code == 0 and "read as queries, for sicog sample" in done.output


@pytest.mark.parametrize("name", ["empty.json", "empty.jsonl"])
def test_no_rows_is_exit_code_1(tmp_path: Path, cache: Path, name: str) -> None:
    (tmp_path / name).write_text("[]" if name == "empty.json" else "")
    done = RUNNER.invoke(app, ["data", "check", str(tmp_path / name), f"data.cache_dir={cache}"])
    assert done.exit_code == 1 and "0 rows: the data is empty" in done.output


def test_a_missing_image_folder_is_said_once(rows: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match="imagse does not exist"):
        arguments = ["data", "check", str(rows), "--image-folder", str(tmp_path / "imagse"), f"data.cache_dir={cache}"]
        RUNNER.invoke(app, arguments, catch_exceptions=False)
