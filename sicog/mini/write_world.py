"""Write the mini world to disk in published formats, so that the pipeline reads it like a user's data.

images/{split}/NNNNN.png    paths in the files below are relative to the data folder
align.json, sft.json        LLaVA JSON: brief captions; short answers and some detailed captions
warmup_captions.json        ALLaVA-like: `caption`, from which a teacher makes chains of description
warmup_reasoning.jsonl      LLaVA-CoT-like: SUMMARY, CAPTION, REASONING and CONCLUSION in tags
{unlabelled,dev,test}_{images,questions}.json    LLaVA JSON with a human turn only
truth/{unlabelled,dev,test}.jsonl                for evaluation and report only
truth/warmup_captions.jsonl                      input of the teacher (teacher_server.py)
config.json is written first and identifies the folder; manifest.json is written last and marks it complete
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from sicog.config import Config
from sicog.mini.questions import QUESTION_TYPES, BalancedDraw, Question, question_text
from sicog.mini.reasoning import cot_bodies
from sicog.mini.render import render_scene
from sicog.mini.scene import LABELLED, UNLABELLED, Scene, choose, draw_scene
from sicog.mini.text import (
    BRIEF_INSTRUCTIONS,
    CAPTION_QUESTION,
    PLACED_INSTRUCTIONS,
    brief_caption,
    detailed_description,
)
from sicog.mini.truth import QuestionTruth, SceneTruth, truth_file
from sicog.records import Query
from sicog.stages.storage import MANIFEST, read_json, write_bytes, write_json
from sicog.tasks import CAPTIONING, REASONING

WORLD = 4  # increase it when scenes, pixels, words or formats change; folders of older worlds are then refused
TAGS = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
SLICED_ABOVE = 112 * 112  # pixels; used only for counts in the manifest, the processor decides
Row = dict[str, Any]


class MiniDataConfig(Config):
    """Numbers of images per split, and questions per image where the split has questions."""

    seed: int = Field(0, ge=0)
    """Seed of the scenes and questions."""
    align: int = Field(3000, ge=1)
    """Images with a caption for alignment."""
    sft: int = Field(2500, ge=1)
    """Images for instruction tuning."""
    warmup_captions: int = Field(600, ge=1)
    """Images with an annotated caption for the perception warm-up."""
    warmup_reasoning: int = Field(600, ge=1)
    """Questions with an annotated chain for the reasoning warm-up."""
    unlabelled: int = Field(1500, ge=1)
    """Images without labels, for sampling of candidates."""
    unlabelled_questions: int = Field(2, ge=1, le=len(QUESTION_TYPES))
    """Questions for each unlabelled image."""
    dev: int = Field(200, ge=1)
    """Images of the development split."""
    dev_questions: int = Field(4, ge=1, le=len(QUESTION_TYPES))
    """Questions for each image of the development split."""
    test: int = Field(400, ge=1)
    """Images of the test split."""
    test_questions: int = Field(5, ge=1, le=len(QUESTION_TYPES))
    """Questions for each image of the test split."""
    sft_caption_every: int = Field(3, ge=1)
    """One of this many images of sft has a caption; the others have questions."""


Splits = tuple[str, ...]
LABELLED_SPLITS: Splits = ("align", "sft", "warmup_captions", "warmup_reasoning")
UNLABELLED_SPLITS: Splits = ("unlabelled", "dev", "test")


def total_images(config: MiniDataConfig) -> int:
    """Return the number of images that `write_mini_data` writes."""
    return sum(getattr(config, split) for split in LABELLED_SPLITS + UNLABELLED_SPLITS)


def write_mini_data(config: MiniDataConfig, out_dir: Path, on_image: Callable[[], None] = lambda: None) -> Row:
    """Write the whole data folder and return its manifest; `on_image` is called after each image.

    A finished folder of the same config is not changed; an unfinished one is written again from the start. Equal
    configs give equal bytes. Raises `ValueError` when the folder belongs to another config.
    """
    settings = {"world": WORLD, **config.model_dump()}
    _refuse_other_config(out_dir, settings)
    if (out_dir / MANIFEST).exists():
        return read_json(out_dir / MANIFEST)
    write_json(out_dir / "config.json", settings)
    splits = {}
    for split in LABELLED_SPLITS + UNLABELLED_SPLITS:
        scenes = draw_split(config, split)
        digest = _write_images(scenes, out_dir, on_image)
        questions = _WRITERS[split](config, split, scenes, out_dir)
        splits[split] = {**_image_counts(scenes), "images_sha256": digest, **_question_counts(questions)}
    manifest = {"config": settings, "splits": splits, "files": _file_digests(out_dir)}
    write_json(out_dir / MANIFEST, manifest)
    return manifest


def draw_split(config: MiniDataConfig, split: str) -> list[Scene]:
    """Return the scenes of a split, in order."""
    rules = LABELLED if split in LABELLED_SPLITS else UNLABELLED
    return [draw_scene(config.seed, split, index, rules) for index in range(getattr(config, split))]


def questions_by_id(data: Path, split: str) -> dict[str, tuple[Scene, Question]]:
    """Return scene and question by the question's id, of a split without answers.

    They are generated again, because the truth on disk does not have the parts of a question. Raises `ValueError` for a
    folder of another world.
    """
    settings = read_json(data / "config.json")
    if (world := settings.pop("world", None)) != WORLD:
        raise ValueError(f"{data} has mini data of world {world}, but this version needs {WORLD}. Make the data again")
    config = MiniDataConfig(**settings)
    return {
        key: (scene, question) for key, scene, question, _ in _split_questions(config, split, draw_split(config, split))
    }


def image_path(scene: Scene) -> str:
    """Return the image's path, relative to the data folder."""
    split, _, index = scene.id.rpartition("-")
    return f"images/{split}/{index}.png"


def _refuse_other_config(out_dir: Path, settings: Row) -> None:
    if not (out_dir / "config.json").exists():
        return
    present = read_json(out_dir / "config.json")
    differing = sorted(k for k in settings.keys() | present.keys() if settings.get(k) != present.get(k))
    if differing:
        changes = ", ".join(f"{k}: {present.get(k)} there, {settings.get(k)} here" for k in differing)
        raise ValueError(f"{out_dir} has mini data of another config ({changes}). Choose another folder or remove it")


def _write_images(scenes: Iterable[Scene], out_dir: Path, on_image: Callable[[], None]) -> str:
    """Write the PNG files and return one digest of them all.

    They are written in place, without the flush per file of an atomic write. Nobody reads them before the manifest
    exists, and without the manifest all are written again.
    """
    digest = hashlib.sha256()
    for scene in scenes:
        path = out_dir / image_path(scene)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        render_scene(scene).save(buffer, "PNG", compress_level=1, compress_type=3)  # run-length: fastest
        path.write_bytes(buffer.getvalue())
        digest.update(buffer.getvalue())
        on_image()
    return digest.hexdigest()


Asked = list[tuple[str, Scene, Question, str]]  # question id, scene, question, its words


def _sample_questions(scenes: Iterable[Scene], per_image: Callable[[int], int], *, name_held_out: bool) -> Asked:
    """Return questions on each scene, of different types in turn, with balanced answers."""
    draw, asked, turn = BalancedDraw(name_held_out=name_held_out), [], 0
    for index, scene in enumerate(scenes):
        for k in range(per_image(index)):
            question = draw.draw(scene, QUESTION_TYPES[turn % len(QUESTION_TYPES)])
            key = f"{scene.id}-q{k}"
            asked.append((key, scene, question, question_text(question)))
            turn += 1
    return asked


def _split_questions(config: MiniDataConfig, split: str, scenes: Iterable[Scene]) -> Asked:
    """Return the questions of a split without answers."""
    per_image = getattr(config, f"{split}_questions")
    return _sample_questions(scenes, lambda index: per_image, name_held_out=True)


def _llava_row(row_id: str, scene: Scene, *turns: str, marker: str = "<image>\n") -> Row:
    """Return a LLaVA row: alternating human and gpt turns, with the image marker before the first."""
    speakers = ("human", "gpt")
    conversations = [{"from": speakers[i % 2], "value": (marker if i == 0 else "") + t} for i, t in enumerate(turns)]
    return {"id": row_id, "image": image_path(scene), "conversations": conversations}


def _write_list(path: Path, rows: list[Row]) -> None:
    write_bytes(path, orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _write_lines(path: Path, rows: Iterable[Row]) -> None:
    write_bytes(path, b"".join(orjson.dumps(row) + b"\n" for row in rows))


def _write_align(config: MiniDataConfig, split: str, scenes: list[Scene], out_dir: Path) -> Asked:
    """Write brief captions; every other one has places, so that the projector learns them too."""
    rows = []
    for k, scene in enumerate(scenes):
        placed = k % 2 == 1
        prompt = choose(PLACED_INSTRUCTIONS if placed else BRIEF_INSTRUCTIONS, scene.id, "instruction")
        rows.append(_llava_row(scene.id, scene, prompt, brief_caption(scene, placed=placed)))
    _write_list(out_dir / "align.json", rows)
    return []


def _write_sft(config: MiniDataConfig, split: str, scenes: list[Scene], out_dir: Path) -> Asked:
    """Write detailed captions on some images, and two or three questions on others, as conversations or single rows."""
    questioned = [s for i, s in enumerate(scenes) if i % config.sft_caption_every != 0]
    asked = _sample_questions(questioned, lambda index: 2 + index % 2, name_held_out=False)
    turns: dict[str, list[str]] = {s.id: [] for s in questioned}
    for key, scene, question, words in asked:
        turns[scene.id] += [_direct_prompt(key, words), question.answer]
    rows = []
    for scene in scenes:
        if scene.id not in turns:
            rows.append(_llava_row(scene.id, scene, CAPTIONING.style("dd").template, detailed_description(scene)))
        elif choose((True, False), scene.id, "one conversation"):
            rows.append(_llava_row(scene.id, scene, *turns[scene.id]))
        else:
            pairs = zip(turns[scene.id][::2], turns[scene.id][1::2], strict=True)
            rows += [_llava_row(f"{scene.id}-q{k}", scene, *pair) for k, pair in enumerate(pairs)]
    _write_list(out_dir / "sft.json", rows)
    return asked


def _direct_prompt(key: str, words: str) -> str:
    return REASONING.prompt(Query(id=key, task="reasoning", question=words), "direct")


def _write_warmup_captions(config: MiniDataConfig, split: str, scenes: list[Scene], out_dir: Path) -> Asked:
    """Write captions in the published format, and the truth of the images for the teacher."""
    captions = [(scene, brief_caption(scene)) for scene in scenes]
    rows = [{**_llava_row(s.id, s, CAPTION_QUESTION, caption), "caption": caption} for s, caption in captions]
    _write_list(out_dir / "warmup_captions.json", rows)
    _write_lines(truth_file(out_dir, split), (SceneTruth(s, image_path(s), s.held_out, ()).to_json() for s in scenes))
    return []


def _write_warmup_reasoning(config: MiniDataConfig, split: str, scenes: list[Scene], out_dir: Path) -> Asked:
    """Write one question per image. As in LLaVA-CoT's own files, the human turn has no image marker."""
    asked = _sample_questions(scenes, lambda index: 1, name_held_out=False)
    rows = []
    for key, scene, question, words in asked:
        bodies = cot_bodies(scene, question)
        tagged = "\n\n".join(f"<{tag}> {body} </{tag}>" for tag, body in zip(TAGS, bodies, strict=True))
        rows.append(_llava_row(key, scene, words, tagged, marker=""))
    _write_lines(out_dir / "warmup_reasoning.jsonl", rows)
    return asked


def _write_unlabelled(config: MiniDataConfig, split: str, scenes: list[Scene], out_dir: Path) -> Asked:
    """Write queries without answers, and their truth."""
    asked = _split_questions(config, split, scenes)
    _write_list(out_dir / f"{split}_images.json", [_llava_row(s.id, s, CAPTION_QUESTION) for s in scenes])
    _write_list(out_dir / f"{split}_questions.json", [_llava_row(key, s, words) for key, s, _, words in asked])
    truths: dict[str, list[QuestionTruth]] = {s.id: [] for s in scenes}
    for key, scene, q, words in asked:
        held_out = q.names_held_out or any(scene.things[i].held_out for i in q.things)
        truths[scene.id].append(QuestionTruth(key, q.type, q.kind, words, q.answer, held_out))
    rows = (SceneTruth(s, image_path(s), s.held_out, tuple(truths[s.id])).to_json() for s in scenes)
    _write_lines(truth_file(out_dir, split), rows)
    return asked


_WRITERS: dict[str, Callable[[MiniDataConfig, str, list[Scene], Path], Asked]] = {
    "align": _write_align,
    "sft": _write_sft,
    "warmup_captions": _write_warmup_captions,
    "warmup_reasoning": _write_warmup_reasoning,
    **dict.fromkeys(UNLABELLED_SPLITS, _write_unlabelled),
}


def _image_counts(scenes: list[Scene]) -> Row:
    return {
        "images": len(scenes),
        "sliced_images": sum(s.width * s.height > SLICED_ABOVE for s in scenes),
        "held_out_images": sum(s.held_out for s in scenes),
        "things": sum(len(s.things) for s in scenes),
    }


def _question_counts(asked: Asked) -> Row:
    counts: dict[str, Counter[str]] = {}
    for _, _, question, _ in asked:
        counts.setdefault(question.type, Counter())[question.answer] += 1
    return {"questions": len(asked), "answers": {type_: dict(answers) for type_, answers in counts.items()}}


def _file_digests(out_dir: Path) -> dict[str, str]:
    files = sorted(out_dir.glob("*_*.json*")) + [out_dir / "align.json", out_dir / "sft.json"]
    files += sorted((out_dir / "truth").glob("*.jsonl"))
    return {f.relative_to(out_dir).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
