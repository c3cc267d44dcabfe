"""A closer look: windows that cover the image, what is shown of them, candidates that remember theirs, and claims."""

from __future__ import annotations

import json

import numpy as np
import pytest
from generation.worlds import write_world
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sicog.curation.claims.extract import ReadClaims
from sicog.curation.claims.readers import GrammarReader
from sicog.curation.claims.settle import SettleConfig, SettleRows
from sicog.generation.closer import CloserConfig, StyleCount, shares, window_image, window_size, windows
from sicog.generation.config import SampleConfig
from sicog.generation.sample import sample
from sicog.records import Candidate, CandidateSet, Query
from sicog.stages.storage import read_json, read_records

MINI_GRAMMAR = "sicog.mini.grammar:GRAMMAR"
DD = (StyleCount(style="dd"),)
grids = st.builds(
    CloserConfig, columns=st.integers(1, 5), rows=st.integers(1, 5), margin=st.floats(0, 1), styles=st.just(DD)
)


@given(st.integers(1, 400), st.integers(1, 400), grids)
def test_windows_lie_in_the_image_and_cover_it(width, height, closer):
    boxes = windows((width, height), closer)
    assert len(boxes) == closer.columns * closer.rows
    covered = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        covered[top:bottom, left:right] = True
    assert covered.all() or min(width, height) < 5  # of fewer pixels than windows some share one


def test_what_is_shown_of_a_window():
    pixels = np.full((30, 60, 3), 200, dtype=np.uint8)
    pixels[0:10, 0:20] = (10, 20, 30)
    image, box = Image.fromarray(pixels), (0, 0, 20, 10)
    crop, spot = (CloserConfig(styles=DD, show=show) for show in ("crop", "spotlight"))
    assert np.array_equal(np.asarray(window_image(image, box, crop)), pixels[0:10, 0:20])
    assert np.array_equal(np.asarray(window_image(image, box, spot)), pixels)
    other = np.asarray(window_image(image, (40, 20, 60, 30), spot))
    assert (other == 200).all() and window_size((60, 30), box, spot) == (60, 30)
    assert window_size((60, 30), box, crop) == window_image(image, box, crop).size
    assert shares(box, (60, 30)) == (0.0, 0.0, 0.3333, 0.3333)


def test_candidates_of_windows_come_after_those_of_the_image_and_say_where_they_looked(tiny_dir, tmp_path):
    world = write_world(tmp_path / "world")
    values = {"checkpoint": tiny_dir, "input": world, "image_folder": world.parent, "task": "captioning"}
    values |= {"styles": [{"style": "dd", "n": 2}], "max_new_tokens": 4, "temperature": 1.0}
    closer = {"columns": 2, "rows": 1, "show": "crop", "styles": [{"style": "dd", "n": 2}]}
    config = SampleConfig.model_validate({**values, "out_dir": tmp_path / "out", "closer": closer, "block_size": 3})
    assert config.candidates_per_query == 6
    rows = list(read_records(sample(config), CandidateSet))
    plain = SampleConfig.model_validate({**values, "out_dir": tmp_path / "plain"})
    for row, alone in zip(rows, read_records(sample(plain), CandidateSet), strict=True):
        assert row.candidates[:2] == alone.candidates  # the whole image's are those of a run without windows
        looked = [c.window for c in row.candidates[2:]]
        assert looked[0] == looked[1] != looked[2] == looked[3] and looked[0][0] == 0 and looked[2][2] == 1
    again = SampleConfig.model_validate({**values, "out_dir": tmp_path / "again", "closer": closer, "batch_size": 1})
    assert list(read_records(sample(again), CandidateSet)) == rows


def test_a_row_without_exactly_one_image_is_dropped(tiny_dir, tmp_path):
    row = {"id": "a", "image": ["x.png", "y.png"], "conversations": [{"from": "human", "value": "<image><image>What?"}]}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    values = {"checkpoint": tiny_dir, "input": tmp_path / "rows.json", "image_folder": tmp_path, "task": "captioning"}
    closer = {"styles": [{"style": "dd"}]}
    config = SampleConfig.model_validate({**values, "out_dir": tmp_path / "out", "closer": closer})
    assert read_json(sample(config) / "manifest.json")["dropped"] == {"not_one_image": 1}
    with pytest.raises(ValueError, match="Remove either closer or corruptions"):
        SampleConfig.model_validate({**values, "out_dir": "o", "closer": closer, "corruptions": ["mask"]})
    with pytest.raises(ValueError, match="unknown captioning style 'cot'"):
        SampleConfig.model_validate({**values, "out_dir": "o", "closer": {"styles": [{"style": "cot"}]}})


def caption(*things):
    return f"The image shows {' and '.join(f'a {t}' for t in things)} on a white background."


def candidate(index, text, window=None, finish="stop"):
    values = {"style": "dd", "prompt": "p", "seed": 0, "finish_reason": finish, "n_tokens": 3, "checkpoint": "c"}
    return Candidate(query_id="r", index=index, text=text, window=window, **values)


def test_windows_vote_by_what_they_see_and_say_where_it_stands():
    """The whole image is misread in place; its claims gain by a window that sees the thing, placed by the window."""
    query = Query(id="r", task="captioning", images=("a.png",))
    red, blue = "large red circle", "small blue star"
    whole = [caption(f"{red} at the top left", f"{blue} at the top right"), caption(f"{red} at the middle left")]
    whole.append(caption(f"{red} at the top left", "small cyan cross at the top left"))
    top, bottom = (0.0, 0.0, 0.4, 0.4), (0.6, 0.6, 1.0, 1.0)
    looks = [
        candidate(0, caption(f"{blue} at the middle center"), bottom),
        candidate(0, caption(f"{red} at the top left"), top),
    ]
    looks.append(candidate(1, "", top, "length"))
    row = CandidateSet(id="r", query=query, candidates=(*(candidate(i, t) for i, t in enumerate(whole)), *looks))
    ((scored,),) = ReadClaims(GrammarReader(MINI_GRAMMAR), "support")([row])
    assert [c.excluded for c in scored.candidates] == [None, None, None, "window", "window", "window"]
    assert [c.score is None for c in scored.candidates] == [False] * 3 + [True] * 3
    found = {(c.kind, c.key): (c.support, c.seen) for c in scored.candidates[0].claims}
    assert found["thing", red] == (1.0, 1.0) and found["thing", blue] == (0.0, 1.0)
    assert found["place", f"{blue} at the top right"] == (0.0, 0.0)
    seen = {c.key: (c.support, c.seen) for c in scored.candidates[3].claims if c.kind == "place"}
    assert seen == {f"{blue} at the bottom right": (0.0, 1.0)}
    ((example, *_),) = SettleRows(
        SettleConfig(input="i", out_dir="o", support=0.5, closer_weight=0.5, grammar=MINI_GRAMMAR), 0.5
    )([scored])
    assert example.turns[1].text == caption(f"{red} at the top left", f"{blue} at the bottom right")
