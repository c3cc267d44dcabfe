"""The estimate before a run: from rows of the whole input, scaled to all of them, and nothing is written."""

import json

import pytest
from generation.worlds import write_world
from rich.console import Console

from sicog.cli import app
from sicog.generation.config import SampleConfig
from sicog.generation.estimate import estimate
from sicog.generation.sample import SampleBlock


def config(checkpoint, world, out, **values):
    base = {"checkpoint": checkpoint, "input": world, "image_folder": world.parent, "out_dir": out}
    small = {"task": "captioning", "max_new_tokens": 4, "batch_size": 3, "temperature": 1.0}
    return SampleConfig.model_validate({**base, **small, **values})


def test_a_trial_is_scaled_to_all_rows(tiny_dir, tmp_path, monkeypatch):
    world = write_world(tmp_path / "w", 7)
    (tmp_path / "w" / "3.png").unlink()
    seen = []
    process = SampleBlock.__call__
    monkeypatch.setattr(SampleBlock, "__call__", lambda s, q: seen.append([x.id for x in q]) or process(s, q))
    console = Console(record=True, width=200)
    one = estimate(config(tiny_dir, world, tmp_path / "out", price_per_hour=7200.0), console)
    # Two fills of three slots, three candidates a row.
    assert seen == [["row-0"], ["row-0", "row-3"]]
    assert (one.rows, one.trial_rows, one.dropped, one.n_candidates) == (7, 2, 1, 3)
    assert one.hours * 3600 == pytest.approx(one.seconds / 2 * 7)
    assert one.money == pytest.approx(one.hours * 7200) and 0 < one.n_tokens <= 12
    assert "2 of 7 rows, 1 dropped" in (text := console.export_text()) and "at the price given" in text
    assert not (tmp_path / "out").exists()


def test_workers_divide_the_hours_and_an_empty_input_is_said(tiny_dir, tmp_path):
    world = write_world(tmp_path / "w", 2)
    four = estimate(config(tiny_dir, world, tmp_path / "o", workers=4, batch_size=12, price_per_hour=1.0))
    assert four.hours * 4 * 3600 == pytest.approx(four.seconds) and four.money == pytest.approx(four.hours * 4)
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ValueError, match="no rows to try"):
        estimate(config(tiny_dir, tmp_path / "none.json", tmp_path / "o"))


def test_only_verbs_that_can_tell_have_the_option(tiny_dir, tmp_path, capsys):
    world = write_world(tmp_path / "w", 1)
    values = config(tiny_dir, world, tmp_path / "o").model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    app(["sample", str(tmp_path / "c.yaml"), "--estimate"], standalone_mode=False)
    assert "trial: 1 of 1 rows" in capsys.readouterr().out and not (tmp_path / "o").exists()
    with pytest.raises(Exception, match="No such option"):
        app(["group", "--estimate"], standalone_mode=False)
