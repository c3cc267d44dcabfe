"""Models from parts, whole checkpoints, projectors, and the sentence a wrong path gets."""

import json
import shutil

import pytest
import torch
from golden_recipe import draw_image
from safetensors.torch import load_file, save_file
from tiny import SCALE, tiny_parts
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from sicog.model import SicogForConditionalGeneration, SicogProcessor, load_checkpoint, load_parts
from sicog.model.checkpoints import load_projector
from sicog.records import Turn

SIZE = {"scale": SCALE, "query_grid": 2, "max_slices": 4}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def built(parts):
    return load_parts(*parts, **SIZE)


def same(model, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


def test_parts_keep_their_weights(parts, built):
    model, processor = built
    vision, text = (load_file(part / "model.safetensors") for part in parts)
    for name, value in vision.items():
        assert torch.equal(value, model.vision_tower.state_dict()[name.removeprefix("vision_model.")]), name
    for name, value in text.items():
        assert torch.equal(value, model.language_model.state_dict()[name]), name
    assert not any(p.is_meta for p in (*model.parameters(), *model.buffers()))
    assert torch.isfinite(model.resampler.proj).all()
    assert model.resampler.proj.std() > 0
    tokenizer = processor.tokenizer
    assert tokenizer.decode([model.config.row_separator_id, model.config.slice_separator_id]) == "\n,"
    assert model.config.image_token_id == model.config.text_config.vocab_size - 1 >= len(tokenizer)
    assert not model.vision_tower.post_layernorm.weight.requires_grad


def test_generation_settings_are_our_own(built):
    model, processor = built
    assert model.generation_config.repetition_penalty in (None, 1.0)
    assert not model.generation_config.do_sample
    assert processor.end_token_id in model.generation_config.eos_token_id


def test_from_image_to_text(built):
    model, processor = built
    turns = [Turn(role="user", text="What is this?", images_at=(0,))]
    encoded = [processor.encode(turns, [draw_image(*s, 1)], add_generation_prompt=True) for s in ((56, 56), (110, 60))]
    batch = processor.collate(encoded, padding_side="left", with_labels=False)
    out = model.generate(**batch, max_new_tokens=4)
    texts = processor.batch_decode(out[:, batch["input_ids"].shape[1] :])
    for e, text in zip(encoded, texts, strict=True):
        single = processor.collate([e], with_labels=False)
        assert processor.decode(model.generate(**single, max_new_tokens=4)[0, len(e.input_ids) :]) == text


def test_checkpoint_round_trip(built, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = load_checkpoint(tmp_path)
    assert same(model, loaded)
    assert not loaded.training
    assert loaded_processor.image_processor.scale == SCALE
    assert loaded.generation_config.eos_token_id == model.generation_config.eos_token_id
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path), SicogForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), SicogProcessor)
    half, _ = load_checkpoint(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    half.save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    assert load_checkpoint(tmp_path / "half")[0].dtype == torch.bfloat16


def test_a_checkpoint_holds_no_path_of_the_machine(parts, tmp_path):
    saved = []
    for name in ("here", "there"):
        copied = [shutil.copytree(part, tmp_path / name / part.name) for part in parts]
        torch.manual_seed(0)
        model, processor = load_parts(*copied, **SIZE)
        for folder in (tmp_path / name / "first", tmp_path / name / "second"):
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            saved.append({path.name: path.read_bytes() for path in folder.iterdir()})
            model, processor = load_checkpoint(folder)
    assert all(files == saved[0] for files in saved[1:])
    assert not any(str(tmp_path).encode() in content for files in saved for content in files.values())


def test_whole_clip_and_older_names(parts, built, tmp_path):
    model, _ = built
    config = CLIPConfig(vision_config=model.config.vision_config.to_dict(), text_config={"num_hidden_layers": 1})
    whole = CLIPModel(config)
    whole.save_pretrained(tmp_path / "whole")
    tower = load_parts(tmp_path / "whole", parts[1], **SIZE)[0].vision_tower
    assert torch.equal(tower.embeddings.class_embedding, whole.vision_model.embeddings.class_embedding)
    shutil.copytree(parts[0], tmp_path / "old")
    weights = load_file(parts[0] / "model.safetensors")
    old = {f"vision_model.{name.removeprefix('vision_model.')}": value for name, value in weights.items()}
    save_file(old, tmp_path / "old" / "model.safetensors", metadata={"format": "pt"})
    assert same(load_parts(tmp_path / "old", parts[1], **SIZE)[0].vision_tower, model.vision_tower)


def test_a_llama_language_model_with_a_tied_head(parts, tmp_path):
    shutil.copytree(parts[1], tmp_path / "llama")
    vocab = json.loads((parts[1] / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    model, processor = load_parts(parts[0], tmp_path / "llama", **SIZE)
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    loaded, _ = load_checkpoint(tmp_path / "whole")
    assert same(model, loaded)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_projector_of_every_kind(parts, built, tmp_path):
    model, _ = built
    weights = {f"model.mm_projector.{n}": v + 1 for n, v in model.resampler.state_dict().items()}
    torch.save(weights, tmp_path / "mm_projector.bin")
    (tmp_path / "whole").mkdir()
    save_file(
        {f"resampler.{n}": v + 1 for n, v in model.resampler.state_dict().items()},
        tmp_path / "whole" / "model.safetensors",
    )
    for projector in (tmp_path / "mm_projector.bin", tmp_path, tmp_path / "whole"):
        other, _ = load_parts(*parts, projector=projector, **SIZE)
        for name, value in model.resampler.state_dict().items():
            assert torch.equal(other.resampler.state_dict()[name], value + 1), name


def test_wrong_projectors_are_named(built, tmp_path):
    model, _ = built
    state = model.resampler.state_dict()
    for projector, message in (
        (tmp_path / "none", "no such projector"),
        (tmp_path, "holds no projector"),
    ):
        with pytest.raises(ValueError, match=message):
            load_projector(model, projector)
    save_file({"resampler.query": state["query"].clone()}, tmp_path / "few.safetensors")
    with pytest.raises(ValueError, match="12 missing: attn.in_proj_bias, "):
        load_projector(model, tmp_path / "few.safetensors")
    state = {f"resampler.{n}": (v[..., :-1] if n == "query" else v).clone() for n, v in state.items()}
    save_file({**state, "resampler.more": torch.zeros(1), "other": torch.zeros(1)}, tmp_path / "narrow.safetensors")
    with pytest.raises(ValueError, match=r"2 unknown: more, other; 1 of another shape: query: \(4, 31\) instead of"):
        load_projector(model, tmp_path / "narrow.safetensors")


def test_an_original_s_projector_says_how_its_regions_were_rounded(parts, built, tmp_path, capsys):
    weights = built[0].resampler.state_dict()
    torch.save({f"model.mm_projector.{n}": v for n, v in weights.items()}, tmp_path / "mm_projector.bin")
    save_file({f"resampler.{n}": v for n, v in weights.items()}, tmp_path / "projector.safetensors")

    def said(name, **options):
        capsys.readouterr()
        load_parts(*parts, projector=tmp_path / name, **SIZE, **options)
        return [line for line in capsys.readouterr().err.splitlines() if "bfloat16" in line]

    (line,) = said("mm_projector.bin")
    assert "mm_projector.bin: the original rounded" in line and "regions_dtype=bfloat16" in line
    assert not said("mm_projector.bin", regions_dtype="bfloat16") and not said("projector.safetensors")


def test_dtype_by_name(parts, tmp_path):
    assert load_parts(*parts, dtype="auto", **SIZE)[0].dtype == torch.float32
    text = shutil.copytree(parts[1], tmp_path / "text")
    values = json.loads((text / "config.json").read_text())
    for key in ("dtype", "torch_dtype"):
        kept = {k: v for k, v in values.items() if k not in ("dtype", "torch_dtype")}
        (text / "config.json").write_text(json.dumps({**kept, key: "bfloat16"}))
        model, _ = load_parts(parts[0], text, dtype="auto", **SIZE)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and model.config.dtype == torch.bfloat16
    for word in ("half-precise", "nn"):
        with pytest.raises(ValueError, match=f"dtype '{word}' is not a torch dtype"):
            load_parts(*parts, dtype=word, **SIZE)


def test_a_wrong_path_gets_one_clear_sentence(parts, tmp_path):
    with pytest.raises(ValueError, match="'qwen2', not 'sicog'"):
        load_checkpoint(parts[1])
    with pytest.raises(ValueError, match="neither a folder with a config.json"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="not a CLIP vision model; check vision_tower"):
        load_parts(parts[1], parts[1])
    with pytest.raises(ValueError, match="not a causal language model; check language_model"):
        load_parts(parts[0], parts[0])


def test_model_and_processor_must_agree(built, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    values = json.loads(path.read_text())
    other = {**values, "image_processor": {**values["image_processor"], "max_slices": 5}}
    path.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="max_slices is 4 in config.json but 5"):
        load_checkpoint(tmp_path)
    path.write_text(json.dumps({**values, "query_grid": 3}))
    with pytest.raises(ValueError, match="query_grid is 2 in config.json but 3"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("scale", "wide", "expected int, got str"),
        ("max_slices", 2.5, "expected int, got float"),
        ("query_grid", 0, "query_grid must be at least 1"),
        ("regions_dtype", "int8", "regions_dtype"),
        ("image_std", [1.0], "each of 3 channels"),
    ],
)
def test_a_wrong_value_of_the_config_is_named(tiny_dir, tmp_path, field, value, said):
    parts = tiny_dir / "parts"
    with pytest.raises(ValueError, match=f"the config of the new model: .*{said}"):
        load_parts(parts / "vision", parts / "text", **{"scale": 56, "query_grid": 2, field: value})
    shutil.copytree(tiny_dir, tmp_path / "bad")
    config = json.loads((tmp_path / "bad" / "config.json").read_text())
    (tmp_path / "bad" / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ValueError, match=said):
        load_checkpoint(tmp_path / "bad")
