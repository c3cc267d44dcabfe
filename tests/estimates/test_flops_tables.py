"""`sicog flops`: its tables, against the arithmetic that they show."""

import json
import re
import shutil
from pathlib import Path

import pytest

from sicog.estimates.arithmetic.assumed import image_size
from sicog.estimates.arithmetic.flops import work_of
from sicog.estimates.arithmetic.memory import activations, states_without_deepspeed
from sicog.estimates.flops_tables import print_tables
from sicog.estimates.shapes import read_config
from sicog.model import SicogImageProcessor
from sicog.model.layout import count_tokens

FULL_SIZE = Path(__file__).parents[2] / "recipes" / "configs" / "sicog-7b.json"


def test_the_command_says_which_precision_it_counts(capsys):
    print_tables(FULL_SIZE, devices=32)
    rows = {
        tuple(r[:2]): r for r in (re.split(r"\s*│\s*", x.strip("│ ")) for x in capsys.readouterr().out.splitlines())
    }
    config = read_config(FULL_SIZE)
    alone = states_without_deepspeed(config, ("projector",))
    kept = sum(activations(config, work_of(config, (1024, 768), 500, slicing=False), ("projector",)).values())
    found = [float(x) for x in rows["align", "none"][2:]]
    wanted = [alone.weights, alone.gradients, alone.optimizer, kept, None, None, alone.total + kept]
    for value, want in zip(found, wanted, strict=False):
        assert want is None or value == pytest.approx(want / 2**30, abs=0.005)
    assert ("pretrain, sft", "none") in rows and ("align", "3") in rows


def test_the_image_is_planned_as_the_checkpoint_or_the_option_says(tmp_path, tiny_dir, capsys):
    def image_tokens(*arguments, **options):
        print_tables(*arguments, **{"image": "640x480", "text": 10, **options})
        (row,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("│ pretrain") and x.count("│") == 8]
        return int(row.split("│")[4].replace(",", ""))

    assert image_tokens(FULL_SIZE) == 745
    assert image_tokens(FULL_SIZE, long_side=1024) == 1033
    for name, settings in (("long", {"long_side": 1024}), ("square", {"image_mode": "square"})):
        folder = shutil.copytree(tiny_dir, tmp_path / name, ignore=shutil.ignore_patterns("parts", "*.safetensors"))
        file = folder / "processor_config.json"
        fields = json.loads(file.read_text())
        fields["image_processor"].update(settings)
        file.write_text(json.dumps(fields))
    tiny = SicogImageProcessor(scale=56, max_slices=4)
    # Alone, an image of this size is not cut.
    assert image_tokens(tiny_dir, image="40x30") == 4 < count_tokens(tiny.plan(1024, 768).grid, 2)
    assert image_tokens(tmp_path / "long", image="40x30") == count_tokens(tiny.plan(1024, 768).grid, 2)
    assert image_tokens(tmp_path / "square") == 4
    with pytest.raises(ValueError, match="comes with the checkpoint"):
        print_tables(tiny_dir, long_side=100)


def test_the_command_prints_its_tables(capsys, tiny_dir):
    print_tables(FULL_SIZE, image="1024x768", text=500, devices=32)
    out = capsys.readouterr().out
    assert "1,533" in out and "72.142" in out and "7,615,616,512" in out and "GiB on each of 32" in out
    print_tables(tiny_dir, image="none", text=10)  # a checkpoint folder
    assert "parameters" in capsys.readouterr().out


def test_sizes_are_read():
    assert image_size("10x20") == (10, 20) and image_size("none") is None
    for wrong in ("10", "0x3", "ax3", "10x20x3"):
        with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
            image_size(wrong)
    with pytest.raises(ValueError, match="at least 1"):
        print_tables(FULL_SIZE, text=0)
