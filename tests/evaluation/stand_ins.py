"""Small tables with the columns of the paper's twelve benchmarks, as the kit's data sets have them."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

from PIL import Image

CHOICES = {"A": "red", "B": "green", "C": "blue", "D": "black"}
OCR_KINDS = ("Regular Text Recognition", "Doc-oriented VQA", "Handwritten Mathematical Expression Recognition")


def picture(shade: int = 0) -> str:
    """A PNG as base64."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((60 + shade, 40)).convert("RGB").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_tsv(path: Path, rows: list[dict[str, Any]], *, drawn: bool = True) -> None:
    """A table; `drawn`: with a picture in every row that has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if drawn:
        rows = [{"image": picture(i), **row} for i, row in enumerate(rows)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def choice_rows(n: int = 4, **more: Any) -> list[dict[str, Any]]:
    """Questions with four options."""
    return [
        {"index": i, "question": f"Which color has thing {i}?", **CHOICES, "answer": "ABCD"[i % 4], "category": "color"}
        | more
        for i in range(n)
    ]


def paper_tables() -> dict[str, list[dict[str, Any]]]:
    """Rows by the kit's name of the data set."""
    circular = [
        {**row, "index": row["index"] + turn * 1_000_000, "split": "dev", "l2-category": "attribute"}
        for row in choice_rows(2)
        for turn in (0, 1)
    ]
    yes_no = [
        {"index": i, "question": f"Is thing {i} red? Please answer yes or no.", "answer": ("Yes", "No")[i % 2]}
        for i in range(8)
    ]
    mme = [
        {**row, "category": ("color", "count")[i // 4], "image_path": f"{i // 2}.jpg"} for i, row in enumerate(yes_no)
    ]
    maths = [
        {"question_type": "free_form", "answer_type": "integer", "answer": "4", "choices": "", "answer_option": ""},
        {
            "question_type": "multi_choice",
            "answer_type": "text",
            "answer": "b",
            "choices": "['a', 'b']",
            "answer_option": "B",
        },
    ]
    maths = [
        {"index": i, "question": "How many?", "task": "counting", "skills": "['seeing']"} | m
        for i, m in enumerate(maths)
    ]
    chart = [
        {"index": i, "question": "How much?", "answer": "12", "split": s}
        for i, s in enumerate(("test_human", "test_augmented"))
    ]
    return {
        "MMBench_DEV_EN": circular,
        "MMStar": choice_rows(**{"l2-category": "seeing"}),
        "MMVet": [
            {"index": i, "question": "What is it?", "answer": "red", "category": "rec,ocr,know,gen,spat,math"}
            for i in (0, 1)
        ],
        "MME": mme,
        "POPE": [{**row, "category": "random" + ",popular" * (row["index"] % 3)} for row in yes_no],
        "RealWorldQA": choice_rows(),
        "MathVista_MINI": maths,
        "ScienceQA_TEST": choice_rows(hint="Look up."),
        "AI2D_TEST": choice_rows(),
        "OCRBench": [
            {"index": i, "question": "What is written?", "answer": "['STOP', 'x']", "category": c}
            for i, c in enumerate(OCR_KINDS)
        ],
        "DocVQA_VAL": [{"index": i, "question": "What date?", "answer": "['May 1', '1 May']"} for i in range(2)],
        "ChartQA_TEST": chart,
    }
