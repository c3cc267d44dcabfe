"""shapes.py: configs that cannot be read are refused; shapes of parts are tested with the dry run that reads them."""

import pytest

from sicog.estimates.shapes import read_config


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "must hold vision_config and text_config"),
        ('{"vision_config": {}, "text_config": {}, "sclae": 1}', "unknown keys sclae"),
        ('{"vision_config": {"layer_norm_eps": "x"}, "text_config": {}}', "layer_norm_eps"),
        ("{", "not valid JSON"),
    ],
)
def test_mistakes_are_named(tmp_path, content, says):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=says):
        read_config(tmp_path / "c.json")
