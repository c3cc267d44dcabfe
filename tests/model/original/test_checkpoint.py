"""Checkpoints of the original: every tensor accounted for, in and out byte for byte; what is wrong is listed."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from golden_recipe import GOLDEN, draw_image, golden_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_llama, tiny_parts, tiny_tokenizer
from transformers import CLIPVisionConfig, Qwen2Config
from typer.testing import CliRunner

from sicog.cli import app
from sicog.model import SicogConfig, SicogImageProcessor, SicogProcessor, load_checkpoint, load_parts
from sicog.model.modeling import SicogForConditionalGeneration
from sicog.model.original.checkpoint import export_checkpoint, import_checkpoint
from sicog.model.original.config import projector_of, to_ours, to_theirs
from sicog.model.processing import IMAGE_SETTINGS, SHARED_WITH_CONFIG
from sicog.model.weight_files import stored_tensors

VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIG = {  # the keys of a checkpoint of the original that say what it is, in a tiny size
    "model_type": "qwen2",
    "architectures": ["LlavaQwenForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 30000,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 2,
    "mm_vision_tower": "/somewhere/else/llama-siglip",  # a name that must decide nothing
    "mm_projector_type": "adapt_spatial_resampler_v1",
    "model_mode": "uhd_v1",
    "mm_hidden_size": 64,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "image_aspect_ratio": "square",
    "jbu_ckpt": "/unused",
}


@pytest.fixture(scope="module")
def weights():
    """The golden model's tensors under the original's names, in bfloat16 as the original saves them."""
    state = golden_model().state_dict()
    assert len(state) == len(json.loads((GOLDEN / "state_dict_keys.json").read_text())["llava_checkpoint"])
    return {to_theirs(name): value.to(torch.bfloat16) for name, value in state.items()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP folder that says how many heads a tower of this width has."""
    folder = tmp_path_factory.mktemp("clip")
    CLIPVisionConfig(**VISION, image_size=336, patch_size=14).save_pretrained(folder)
    return str(folder)


def written(folder, weights, kind="sharded", **changes):
    """A folder of the original."""
    folder.mkdir()
    tiny_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    suffix, save = (".bin", torch.save) if "bin" in kind else (".safetensors", save_file)
    stem = "pytorch_model" if "bin" in kind else "model"
    if "sharded" not in kind:
        save(weights, folder / (stem + suffix))
        return folder
    names = list(weights)
    weight_map = {}
    for i in range(3):
        file = f"{stem}-{i + 1:05d}-of-00003{suffix}"
        save({name: weights[name] for name in names[i::3]}, folder / file)
        weight_map |= dict.fromkeys(names[i::3], file)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def all_tensors(folder):
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name].view(torch.uint8), value.view(torch.uint8)), name


@pytest.fixture(scope="module")
def imported(tmp_path_factory, weights, clip):
    folder = tmp_path_factory.mktemp("imported")
    return import_checkpoint(written(folder / "theirs", weights), folder / "ours", vision_tower=clip)


def test_an_imported_checkpoint_declares_what_it_needs(imported, weights):
    model, processor = load_checkpoint(imported)
    config = model.config
    assert (config.row_separator_id, config.slice_separator_id, config.regions_dtype) == (13, 29892, "bfloat16")
    assert (config.projector_type, config.query_grid, config.max_slices) == ("resampler", 12, 7)
    assert processor.image_processor.long_side == 1024 and processor.turn_format == "chatml"
    assert config.image_token_id == 29999 and config.text_config.rope_parameters["rope_theta"] == 1e6
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert len(model.get_input_embeddings().weight) == 30000  # the vocabulary keeps its rows
    assert_same({to_theirs(n): v for n, v in model.state_dict().items()}, weights)
    assert (imported / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_an_imported_model_is_the_golden_one(imported):
    model, processor = load_checkpoint(imported, dtype=torch.float32)
    golden = golden_model.__wrapped__()
    for parameter in golden.parameters():  # not the rotary frequencies, which no checkpoint holds
        parameter.data = parameter.data.bfloat16().float()
    golden.resampler.regions_dtype = "bfloat16"
    inputs = processor(draw_image(500, 400, 1), "What is this?")
    assert inputs["image_grids"].tolist() == [[3, 2]]  # 1024 pixels long
    golden.config.image_token_id = model.image_token_id
    with torch.no_grad():
        ours, theirs = (one(**inputs, logits_to_keep=1).logits for one in (model, golden))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["single", "single bin", "sharded bin"])
def test_files_of_every_kind_give_the_same(tmp_path, imported, weights, clip, kind):
    other = import_checkpoint(written(tmp_path / "theirs", weights, kind), tmp_path / "ours", vision_tower=clip)
    assert_same(all_tensors(other), all_tensors(imported))
    assert (other / "config.json").read_text() == (imported / "config.json").read_text()


def test_import_then_export_is_byte_for_byte(tmp_path, imported, weights):
    exported = export_checkpoint(imported, tmp_path / "qwen")
    assert_same(all_tensors(exported), weights)
    values = json.loads((exported / "config.json").read_text())
    kept = {k: v for k, v in CONFIG.items() if k not in ("mm_vision_tower", "jbu_ckpt")}
    assert {k: values[k] for k in kept} == kept
    assert values["tokenizer_model_max_length"] == 4096 and "clip" in values["mm_vision_tower"]
    again = import_checkpoint(exported, tmp_path / "again")  # needs no --vision-tower: its config is kept
    assert_same(all_tensors(again), all_tensors(imported))
    for name in ("config.json", "processor_config.json", "generation_config.json", "tokenizer.json"):
        assert (again / name).read_text() == (imported / name).read_text(), name


def test_end_tokens_and_image_settings_survive(tmp_path, weights, clip):
    source = written(tmp_path / "theirs", weights)
    theirs = {"eos_token_id": [250, 251], "do_sample": True, "top_k": 20, "repetition_penalty": 1.05}
    (source / "generation_config.json").write_text(json.dumps(theirs))
    first = import_checkpoint(source, tmp_path / "first", vision_tower=clip)
    processor = SicogProcessor.from_pretrained(first)
    own = {"normalize_on": "device", "max_patches": 3000, "long_side": 700}
    for name, value in own.items():
        setattr(processor.image_processor, name, value)
    processor.save_pretrained(first)
    exported = export_checkpoint(first, tmp_path / "qwen")
    again = import_checkpoint(exported, tmp_path / "again")
    for folder in (first, exported, again):
        values = json.loads((folder / "generation_config.json").read_text())
        assert values["eos_token_id"] == [2, 250, 251] and values["do_sample"] is False
        assert "top_k" not in values and "repetition_penalty" not in values
    image = load_checkpoint(again)[1].image_processor
    assert {name: getattr(image, name) for name in own} == own
    settings = set(inspect.signature(SicogImageProcessor).parameters) - {"kwargs"}
    assert settings == {*SHARED_WITH_CONFIG, *IMAGE_SETTINGS}  # each is of the config or written beside it
    (source / "generation_config.json").write_text('{"eos_token_id": "2"}')
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id is neither"):
        import_checkpoint(source, tmp_path / "bad", vision_tower=clip)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_aspect_ratio", None),
        ("image_aspect_ratio", "anyres_max_9"),
        ("mm_patch_merge_type", "spatial_unpad"),
        ("mm_resampler_type", "spatial_pool"),
    ],
)
def test_an_mlp_of_other_images_is_refused(key, value):
    values = {"mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad", "mm_patch_merge_type": "flat"}
    assert projector_of(values, "x") == {"projector_type": "mlp"}
    with pytest.raises(ValueError, match=f"x: {key} {value!r} with mlp2x_gelu is not known, only"):
        projector_of({**values, key: value}, "x")


def test_shards_hold_one_part_each(tmp_path, imported, monkeypatch, weights):
    monkeypatch.setattr("sicog.model.original.checkpoint.copy_tensors", small_shards)
    exported = export_checkpoint(imported, tmp_path / "qwen")
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    files = sorted(exported.glob("*.safetensors"))
    assert len(files) > 3 and index["metadata"]["total_size"] == sum(v.nbytes for v in weights.values())
    for file in files:
        with safe_open(file, "pt") as opened:
            assert {index["weight_map"][name] for name in opened.keys()} == {file.name}  # noqa: SIM118
    assert_same(all_tensors(exported), weights)


def small_shards(renamed, folder):
    from sicog.model.weight_files import copy_tensors

    copy_tensors(renamed, folder, shard_bytes=1_000_000)


def without(weights, *names, **more):
    return {**{k: v for k, v in weights.items() if k not in names}, **more}


def test_what_is_unknown_missing_or_misshapen_is_listed(tmp_path, weights, clip):
    narrow = {"lm_head.weight": weights["lm_head.weight"][:, :-1].contiguous()}
    odd = {f"model.image_newline{i}": torch.zeros(2) for i in range(10)}
    source = written(tmp_path / "theirs", without(weights, "model.norm.weight", **narrow, **odd))
    with pytest.raises(ValueError) as caught:
        import_checkpoint(source, tmp_path / "ours", vision_tower=clip)
    for part in (
        "10 unknown: model.image_newline0, ",
        " and 2 more; ",
        "1 missing: model.norm.weight",
        "1 of another shape: lm_head.weight: (30000, 255) instead of (30000, 256)",
    ):
        assert part in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]  # nothing is left behind


def other_config(key, value):
    return lambda f: (f / "config.json").write_text(json.dumps({**CONFIG, key: value}))


def not_tensors(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({"x": Path("/etc")}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model-00002-of-00003.safetensors").unlink(), "1 shards are missing: model-00002-of-00003"),
        (lambda f: (f / "model-00002-of-00003.safetensors").write_bytes(b"\x09"), "model-00002.*damaged or incomplete"),
        (lambda f: (f / "config.json").unlink(), "neither a folder with a config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "the tokenizer is missing"),
        (not_tensors, "pytorch_model.bin.*nothing in it was executed"),
        (other_config("model_mode", "uhd_v2"), "model_mode 'uhd_v2' with mm_projector_type"),
        (other_config("mm_projector_type", "linear"), "mm_projector_type 'linear' is not known"),
        (other_config("mm_vision_select_feature", "cls_patch"), "mm_vision_select_feature 'cls_patch'"),
        (other_config("model_type", "gemma"), "model_type 'gemma' is not known; known: qwen2, llama"),
    ],
)
def test_damage_is_named_and_nothing_is_left(tmp_path, weights, clip, damage, message):
    small = {name: value for name, value in weights.items() if "embed_tokens" not in name and "lm_head" not in name}
    source = written(tmp_path / "theirs", small)
    damage(source)
    with pytest.raises(ValueError, match=message):
        import_checkpoint(source, tmp_path / "ours", vision_tower=clip)
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]


def test_a_tower_whose_heads_are_not_known_is_asked_for(tmp_path, weights):
    with pytest.raises(ValueError, match="how many attention heads.*--vision-tower"):
        import_checkpoint(written(tmp_path / "theirs", weights), tmp_path / "ours")
    no_tower = {name: value for name, value in weights.items() if "vision_tower" not in name}
    with pytest.raises(ValueError, match="holds no whole vision tower"):
        import_checkpoint(written(tmp_path / "bare", no_tower), tmp_path / "ours")


def test_an_existing_target_is_refused(tmp_path, imported):
    result = CliRunner().invoke(app, ["export-checkpoint", str(imported), str(tmp_path)])
    assert isinstance(result.exception, ValueError) and "exists. Choose another folder" in str(result.exception)


def test_the_full_size_has_744_tensors_of_known_names():
    text = Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        vocab_size=152064,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14,
    )  # fmt: skip
    with torch.device("meta"):
        model = SicogForConditionalGeneration(SicogConfig(vision_config=vision, text_config=text))
    theirs = {to_theirs(name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert len(theirs) == 744
    assert [to_ours(name) for name in theirs] == list(model.state_dict())
    assert theirs["model.mm_projector.attn.in_proj_weight"] == (10752, 3584)
    assert theirs["lm_head.weight"] == (152064, 3584)
    tower = "model.vision_tower.vision_tower.vision_model."
    assert sum(name.startswith(tower) for name in theirs) == 391
    assert theirs[f"{tower}encoder.layers.23.mlp.fc1.bias"] == (4096,) and f"{tower}pre_layrnorm.weight" in theirs


@pytest.fixture(scope="module")
def projector(weights):
    return {name: value for name, value in weights.items() if "mm_projector" in name}


@pytest.mark.parametrize("by_file", [False, True])
def test_the_projector_of_an_align_stage_alone(tmp_path, projector, by_file):
    source = tmp_path / "stage1"
    source.mkdir()
    torch.save(projector, source / "mm_projector.bin")
    (source / "config.json").write_text(json.dumps(CONFIG))
    arguments = ["import-checkpoint", str(source / "mm_projector.bin" if by_file else source), str(tmp_path / "ours")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = load_file(tmp_path / "ours" / "projector.safetensors")
    assert_same({to_theirs(name): value for name, value in found.items()}, projector)
    vision, _ = tiny_parts(tmp_path / "64", width=64)
    _, text = tiny_parts(tmp_path / "256", width=256)
    model, _ = load_parts(vision, text, projector=tmp_path / "ours", regions_dtype="bfloat16")
    assert torch.equal(model.resampler.query, projector["model.mm_projector.query"].float())


def test_a_wrong_projector_is_listed(tmp_path, projector):
    file = tmp_path / "mm_projector.bin"
    for weights, message in (
        (without(projector, "model.mm_projector.proj"), "1 missing: proj"),
        ({**projector, "model.mm_projector.extra": torch.zeros(1)}, "1 unknown: extra"),
        ({"a": torch.zeros(1)}, "has no projector of kind mlp; its tensors: a"),
    ):
        torch.save(weights, file)
        with pytest.raises(ValueError, match=message):
            import_checkpoint(file, tmp_path / "ours")
        assert not (tmp_path / "ours").exists()


def test_an_mlp_and_a_llama_with_a_tied_head(tmp_path):
    vision, _ = tiny_parts(tmp_path)
    text = tiny_llama(tmp_path / "llama", tied=True)
    ids = {"row_separator_id": 13, "slice_separator_id": 250}
    model, processor = load_parts(vision, text, projector_type="mlp", scale=56, turn_format="llama3", **ids)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "ours")
    exported = export_checkpoint(tmp_path / "ours", tmp_path / "llava-llama")
    values = json.loads((exported / "config.json").read_text())
    assert values["mm_projector_type"] == "mlp2x_gelu" and values["architectures"] == ["LlavaLlamaForCausalLM"]
    names = stored_tensors(exported)
    assert "model.mm_projector.2.bias" in names and "lm_head.weight" not in names
    again, again_processor = load_checkpoint(import_checkpoint(exported, tmp_path / "again"))
    assert again_processor.turn_format == "llama3" and again_processor.image_processor.image_mode == "square"
    assert_same(again.state_dict(), model.state_dict())
    head = {"lm_head.weight": torch.zeros(again.config.text_config.vocab_size, 32)}
    save_file({**all_tensors(exported), **head}, exported / "model.safetensors")
    with pytest.raises(ValueError, match="lm_head.weight differs"):
        import_checkpoint(exported, tmp_path / "untied")


def test_what_the_original_cannot_run_is_said(tmp_path, tiny_dir, capsys):
    with pytest.raises(ValueError, match=r"no query_grid of 2; only \[12, 8\]"):
        export_checkpoint(tiny_dir, tmp_path / "qwen")
    model, processor = load_parts(*tiny_parts(tmp_path), query_grid=12)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "qwen")
    said = capsys.readouterr().err
    assert "row_separator_id is" in said and "the original has 13" in said and "long_side is None" in said
