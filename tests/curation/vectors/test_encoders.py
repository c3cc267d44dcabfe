"""Which encoder and how: declared by kind, settings from the table, the config's own win, foreign code refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sicog.config import load_config
from sicog.curation.curate import CurateConfig
from sicog.curation.score.score import ScoreConfig
from sicog.curation.vectors.encoders import MINILM, EncoderConfig, presets

CODE = {"trust_remote_code": True, "revision": "c0ffee"}


def test_the_default_is_the_minilm_that_ships_as_a_package():
    assert EncoderConfig().kind == "sentence-transformers" and EncoderConfig().name == MINILM
    assert EncoderConfig().settings().summary() == ""


def test_the_table_gives_settings_by_the_models_own_name_and_the_config_wins():
    jina = EncoderConfig(name="jinaai/jina-embeddings-v3", **CODE).settings()
    assert (jina.task, jina.max_tokens, jina.dtype) == ("text-matching", 8192, "float32")
    qwen = EncoderConfig(name="Qwen/Qwen3-Embedding-0.6B")  # native: no foreign code is asked for
    assert (qwen.settings().padding_side, qwen.settings().dtype) == ("left", "bfloat16")
    own = EncoderConfig(name="Qwen/Qwen3-Embedding-0.6B", dtype="float32", max_tokens=2048, prefix="Instruct: ")
    assert own.settings().summary() == "max 2048 tokens, left padding, prefix 'Instruct: '"
    assert {"mixedbread-ai/mxbai-embed-large-v1", "openbmb/MiniCPM-Embedding"} < set(presets())


def test_a_path_is_not_looked_into_but_a_preset_can_be_named(tmp_path):
    folder = tmp_path / "Qwen" / "Qwen3-Embedding-0.6B"
    assert EncoderConfig(name=str(folder)).settings().summary() == ""
    named = EncoderConfig(name=str(folder), preset="Qwen/Qwen3-Embedding-0.6B")
    assert named.settings().summary() == "max 32768 tokens, bfloat16, left padding"
    with pytest.raises(ValueError, match="unknown preset 'Qwen'; known: nvidia/NV-Embed-v2"):
        EncoderConfig(preset="Qwen")


def test_nv_embed_is_declared_without_instruction_and_refused_here(tmp_path):
    row = presets()["nvidia/NV-Embed-v2"]
    assert (row.prefix, row.suffix, row.padding_side, row.dtype) == ("", "</s>", "right", "bfloat16")
    assert row.max_tokens == {"captions": 1024, "answers": 512}
    for where in ({"name": "nvidia/NV-Embed-v2"}, {"name": str(tmp_path), "preset": "nvidia/NV-Embed-v2"}):
        with pytest.raises(ValueError, match="does not import on Transformers 5. Instead, serve it .kind: endpoint."):
            EncoderConfig(**where, **CODE)
    served = EncoderConfig(kind="endpoint", name="nvidia/NV-Embed-v2", endpoint={"base_url": "http://127.0.0.1:1/v1"})
    assert served.endpoint.model == "nvidia/NV-Embed-v2" and served.settings().summary() == "suffix '</s>'"


def test_remote_code_needs_its_flag_and_a_commit():
    with pytest.raises(ValueError, match="needs its own code. Allow it with trust_remote_code=true and revision"):
        EncoderConfig(name="openbmb/MiniCPM-Embedding")
    with pytest.raises(ValueError, match="revision is missing"):
        EncoderConfig(name="owner/model", trust_remote_code=True)
    assert EncoderConfig(name="owner/model", **CODE).revision == "c0ffee"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"kind": "endpoint"}, "kind: endpoint needs the key endpoint"),
        ({"endpoint": {"model": "m"}}, "kind: endpoint needs the key endpoint"),
        ({"kind": "file"}, "kind: file needs the key path"),
        ({"path": "x.npz"}, "kind: file needs the key path"),
        ({"kind": "file", "path": "x.npz", "prefix": "a"}, "finds vectors by the unchanged text"),
        ({"kind": "file", "path": "x.npz", "dtype": "bfloat16"}, "dtype cannot be set with kind: file"),
        (
            {"kind": "endpoint", "endpoint": {"model": "m"}, "max_tokens": 99},
            "max_tokens cannot be set with kind: endpoint",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_the_kind_is_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        EncoderConfig(**values)


def test_the_same_values_decide_whatever_device_and_place_are_chosen():
    base = ["input=a", "out_dir=b"]
    here = load_config(ScoreConfig, None, base)
    more = ["workers=3", "launch.on=slurm", "launch.partition=p", "encoder.device=cpu", "cache_dir=c"]
    assert load_config(ScoreConfig, None, [*base, *more]).identity() == here.identity()
    assert load_config(ScoreConfig, None, [*base, "encoder.dtype=bfloat16"]).identity() != here.identity()
    both = load_config(CurateConfig, None, [*base, "threshold=0.8", *more]).score_config()
    assert (both.launch.partition, both.workers, str(both.cache_dir)) == ("p", 3, "c")
    with pytest.raises(ValueError, match="which embeds no texts here. Remove launch"):
        load_config(ScoreConfig, None, [*base, "encoder.kind=file", "encoder.path=v.npz", "launch.on=ray"])


def test_the_page_names_every_declared_encoder_with_its_limits():
    page = (Path(__file__).parents[3] / "docs" / "curation.md").read_text()
    for name, row in presets().items():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        limits = row.max_tokens.values() if isinstance(row.max_tokens, dict) else [row.max_tokens]
        assert all(str(limit) in line for limit in limits)
        assert (row.dtype == "bfloat16") == ("bfloat16" in line) and bool(row.not_here) == ("no:" in line)
        assert ("its own code" in line) == row.own_code
