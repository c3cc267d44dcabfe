"""What users of Hugging Face do with a checkpoint: Auto classes, pipelines, Trainer, TRL, PEFT, the hub's files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_recipe import draw_image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

from sicog.model import SicogForConditionalGeneration, SicogProcessor, load_checkpoint, registration
from sicog.model.registration import AUTO_MAP

ROOT = Path(__file__).parents[2]
ONE, OTHER = draw_image(112, 112, 1), draw_image(110, 60, 2)
AUTO = (AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor)
ALL = ", ".join(cls.__name__ for cls in AUTO)


@pytest.fixture(scope="module")
def loaded(tiny_dir):
    return load_checkpoint(tiny_dir)


def asked(image=ONE, text="What is <|im_end|> shown?"):
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def answered(text):
    return [{"role": "assistant", "content": text}]


def test_the_auto_classes_give_ours(tiny_dir):
    for auto in AUTO:
        assert type(auto.from_pretrained(tiny_dir)).__name__ == AUTO_MAP[auto.__name__].split(".")[1]
    assert (
        AutoTokenizer.from_pretrained(tiny_dir).chat_template == AutoProcessor.from_pretrained(tiny_dir).chat_template
    )


def in_a_fresh_python(code, folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf"), "TMPDIR": str(tmp_path)}
    code = f"FOLDER = {str(folder)!r}\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment
    )


FROM = f"from transformers import {ALL}"
LOAD = f"for auto in ({ALL}):\n    print(auto.__name__, type(auto.from_pretrained(FOLDER)).__name__)"


# Other libraries look for Transformers without importing it.
FIRST = "import importlib.util, sicog.model\nimportlib.util.find_spec('transformers')\n"


@pytest.mark.slow
@pytest.mark.parametrize("order", [FIRST + FROM, f"{FROM}\nimport sicog.model"])
def test_importing_the_package_registers_everything(tiny_dir, tmp_path, order):
    done = in_a_fresh_python(f"{order}\n{LOAD}", tiny_dir, tmp_path)
    assert done.returncode == 0, done.stderr
    pairs = [f"{auto.__name__} {AUTO_MAP[auto.__name__].split('.')[1]}" for auto in AUTO]
    assert done.stdout.splitlines() == pairs


@pytest.mark.slow
def test_without_the_package_the_tokenizer_does_not_pass_for_the_processor(tiny_dir, tmp_path):
    code = (
        f"{FROM}\nfor auto in ({ALL}):\n    try:\n        auto.from_pretrained(FOLDER)\n"
        "    except ValueError as error:\n        print('@', auto.__name__)\n"
        "assert 'sicog.model' not in __import__('sys').modules\n"
        "loaded = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)\n"
        "print('@', type(loaded).__module__)\n"
        "loaded.save_pretrained(FOLDER + '-again')"
    )
    folder = tmp_path / "checkpoint"
    load_checkpoint(tiny_dir)[0].save_pretrained(folder)
    SicogProcessor.from_pretrained(tiny_dir).save_pretrained(folder)
    done = in_a_fresh_python(code, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall("@ (.*)", done.stdout) == [*(auto.__name__ for auto in AUTO), "sicog.model.processing"]
    again = Path(f"{folder}-again")
    assert sorted(path.name for path in again.glob("*.py")) == ["sicog_classes.py"]  # no copy of the package's code
    saved = (folder / "processor_config.json").read_bytes()
    assert (again / "processor_config.json").read_bytes() == saved


def test_reading_images_imports_neither_torch_nor_transformers():
    code = "import sys, sicog.model.image_files; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_saved_files_name_the_classes_and_their_package(loaded, tmp_path):
    for thing in loaded:
        thing.save_pretrained(tmp_path)
    module = (tmp_path / "sicog_classes.py").read_text()
    config = json.loads((tmp_path / "config.json").read_text())
    processor = json.loads((tmp_path / "processor_config.json").read_text())
    assert config["auto_map"] == AUTO_MAP and processor["auto_map"]["AutoProcessor"] == AUTO_MAP["AutoProcessor"]
    for name in AUTO_MAP.values():
        assert name.startswith("sicog_classes.") and name.split(".")[1] in module
    exec(module, {})


def test_the_card_says_how_to_use_the_model(loaded, tmp_path):
    model, processor = loaded
    model.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    card = (tmp_path / "first" / "README.md").read_text()
    assert (
        "pipeline_tag: image-text-to-text" in card and "| language model | qwen2 | 2 layers of 32, 321 tokens |" in card
    )
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    ONE.save(tmp_path / "photo.jpg")
    code = code.replace("FOLDER", str(tmp_path / "first")).replace("photo.jpg", str(tmp_path / "photo.jpg"))
    exec(code.replace("max_new_tokens=200", "max_new_tokens=2"), {})
    (tmp_path / "first" / "README.md").write_text("mine")
    model.save_pretrained(tmp_path / "first")
    assert (tmp_path / "first" / "README.md").read_text() == "mine"


def test_image_features_are_those_of_each_image(loaded):
    model, processor = loaded
    inputs = processor(images=[ONE, OTHER], text="Which?")
    pixels = {name: inputs[name] for name in ("pixel_values", "view_sizes", "image_grids")}
    features = model.get_image_features(**pixels).pooler_output
    placeholders = [
        int((processor(images=i, text="")["input_ids"] == processor.image_token_id).sum()) for i in (ONE, OTHER)
    ]
    assert [len(f) for f in features] == placeholders
    torch.testing.assert_close(torch.cat(features), model.encode_images(**pixels))


def test_a_pipeline_answers_messages_and_questions(loaded):
    model, processor = loaded
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    inputs = processor.apply_chat_template(
        asked(), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    ids = model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    (answer,) = pipe(text=asked(), max_new_tokens=4, return_full_text=False)
    assert answer["generated_text"].strip() == processor.decode(ids)
    assert pipe(text=asked(), max_new_tokens=4)[0]["generated_text"][-1]["role"] == "assistant"
    assert pipe(images=ONE, text="What?", max_new_tokens=4)[0]["generated_text"].startswith("What?")
    both = pipe(text=[asked(), asked(OTHER)], max_new_tokens=2)
    assert len(both) == 2


def test_the_trainer_of_transformers_takes_model_and_processor(tiny_dir, tmp_path):
    from transformers import Trainer, TrainingArguments

    from sicog.records import Turn

    model, processor = load_checkpoint(tiny_dir)
    rows = [(Turn(role="user", text="What?", images_at=(0,)), Turn(role="assistant", text=t)) for t in ("one", "two")]
    data = [processor.encode(turns, [image]) for turns, image in zip(rows, (ONE, OTHER), strict=True)]
    arguments = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    before = model.resampler.query.detach().clone()
    trainer = Trainer(model, arguments, data_collator=processor.collate, train_dataset=data)
    assert np.isfinite(trainer.train().training_loss)
    assert not torch.equal(model.resampler.query.detach(), before)
    trainer.save_model(tmp_path / "done")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "done"), SicogForConditionalGeneration)


def settings(kind, folder, **more):
    return kind(
        output_dir=folder, per_device_train_batch_size=2, max_steps=1, max_length=None, report_to=[], use_cpu=True,
        bf16=False, save_strategy="no", disable_tqdm=True, **more,
    )  # fmt: skip


def test_trl_s_sft_trainer_learns_the_answers(loaded, tiny_dir, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, processor = load_checkpoint(tiny_dir)
    chats = [asked()[0]["content"][1]["text"], "How many?"]
    data = Dataset.from_dict(
        {
            "images": [[ONE], [OTHER]],
            "messages": [
                [{"role": "user", "content": q}, *answered(a)] for q, a in zip(chats, ("a cat", "two"), strict=True)
            ],
        }
    )
    trainer = SFTTrainer(
        model, settings(SFTConfig, tmp_path, assistant_only_loss=True), train_dataset=data, processing_class=processor
    )
    batch = trainer.data_collator([data[0], data[1]])
    taught = [row[row != -100] for row in batch["labels"]]
    assert [processor.decode(row, skip_special_tokens=False) for row in taught] == ["a cat<|im_end|>", "two<|im_end|>"]
    with torch.no_grad():
        expected = loaded[0](**batch, num_items_in_batch=sum(map(len, taught))).loss
    assert trainer.train().training_loss == pytest.approx(float(expected), rel=1e-4)


def test_trl_s_dpo_trainer_compares_the_answers(loaded, tiny_dir, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    _, processor = loaded
    data = Dataset.from_dict(
        {
            "images": [[ONE], [OTHER]],
            "prompt": [[{"role": "user", "content": text}] for text in ("What is <|im_end|> shown?", "How many?")],
            "chosen": [answered("a cat"), answered("two")],
            "rejected": [answered("a <|im_start|> dog"), answered("three")],
        }
    )
    trainer = DPOTrainer(str(tiny_dir), args=settings(DPOConfig, tmp_path), train_dataset=data)  # by the Auto classes
    assert isinstance(trainer.processing_class, SicogProcessor)
    batch = trainer.data_collator([data[0], data[1]])
    rows = zip(batch["input_ids"], batch["completion_mask"], batch["attention_mask"], strict=True)
    texts = [processor.decode(ids[answer == 1], skip_special_tokens=False) for ids, answer, _ in rows]
    assert texts == [f"{text}<|im_end|>\n" for text in ("a cat", "two", "a <|im_start|> dog", "three")]
    whole = processor.apply_chat_template([*asked(), *answered("a cat")], tokenize=True)[0]
    assert batch["input_ids"][0][batch["attention_mask"][0] == 1].tolist() == whole
    assert trainer.train().training_loss == pytest.approx(float(np.log(2)), rel=1e-4)


def test_peft_adapts_the_language_model_or_the_modules_it_is_given(loaded, tiny_dir, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    _, processor = loaded
    by_default = get_peft_model(load_checkpoint(tiny_dir)[0], LoraConfig())
    adapted = {name.split(".lora_")[0] for name, parameter in by_default.named_parameters() if parameter.requires_grad}
    assert adapted and {name.rpartition(".")[2] for name in adapted} == {"q_proj", "v_proj"}
    assert all(".language_model." in name for name in adapted)
    model = get_peft_model(load_checkpoint(tiny_dir)[0], LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    text_alone = get_peft_model(load_checkpoint(tiny_dir)[0], LoraConfig(r=2, target_modules=r"language_model.*_proj"))
    adapted = {name for name, parameter in text_alone.named_parameters() if parameter.requires_grad}
    assert adapted and all("language_model" in name for name in adapted)
    chat = [*asked(), *answered("a cat")]
    batch = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    assert sum(p.grad is not None and bool(p.grad.any()) for p in model.parameters()) > 0
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load_checkpoint(tiny_dir)[0], tmp_path)
    out = again.generate(**processor(images=ONE, text="What?"), max_new_tokens=2)
    assert out.shape[0] == 1


def test_peft_learns_the_targets_in_whichever_order_both_are_imported(monkeypatch):
    import peft.utils

    mapping = peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    targets = mapping.pop("sicog")  # known since the import above, after ours
    registration.register()
    assert mapping["sicog"] == targets
    monkeypatch.setattr(peft.utils, "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", None)
    registration.register()  # of a version without it nothing is asked
