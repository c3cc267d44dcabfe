"""Local tables (TSV in the kit's forms) as data sets of the kit, with its scorer if there is one, else ours.

Only the kit's environment has `vlmeval`; this file is not imported outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from vlmeval.dataset.image_base import ImageBaseDataset
from vlmeval.dataset.image_mcq import ImageMCQDataset
from vlmeval.dataset.image_yorn import ImageYORNDataset
from vlmeval.smp import dump, get_intermediate_file_path

from sicog.evaluation.sampled.answer_scores import accepted_answers, score_answer


class _LocalTable:
    """Common part: finds the data set of this name. images: the folder for its unpacked images."""

    tables: ClassVar[dict[str, Mapping[str, str]]]

    @classmethod
    def supported_datasets(cls) -> list[str]:
        return list(cls.tables)

    def __init__(self, dataset: str = "", **options: Any) -> None:
        super().__init__(dataset=dataset, **options)  # type: ignore[call-arg]
        # The kit unpacks images once per name, so the folder's name contains the table's digest.
        self.img_root = self.tables[dataset]["images"]

    def load_data(self, dataset: str) -> pd.DataFrame:
        path = Path(self.tables[dataset]["path"])
        data = read_table(path)
        if "image_path" not in data:
            return data
        if "image" in data:  # the kit would unpack the image to that path
            return data.drop(columns="image_path")
        return data.assign(image_path=[str(path.parent / name) for name in data["image_path"]])


class LocalChoice(_LocalTable, ImageMCQDataset):
    """Options in columns A, B, ...; the answer is a letter. The kit scores it."""

    tables: ClassVar[dict[str, Mapping[str, str]]] = {}


class LocalYesNo(_LocalTable, ImageYORNDataset):
    """The answer is yes or no. The kit scores it, and writes both with a capital letter."""

    tables: ClassVar[dict[str, Mapping[str, str]]] = {}

    def load_data(self, dataset: str) -> pd.DataFrame:
        data = super().load_data(dataset)
        data["answer"] = data["answer"].str.strip().str.capitalize()
        return data


class LocalOpen(_LocalTable, ImageBaseDataset):
    """Open answers, one or a list of accepted ones. We score them, because the kit would need a judge model."""

    TYPE = "VQA"
    tables: ClassVar[dict[str, Mapping[str, str]]] = {}

    def evaluate(self, eval_file: str, **_: Any) -> dict[str, float]:
        """Return percent, over all rows and by category. Writes each row's score next to the predictions."""
        form = self.tables[self.dataset_name]["form"]
        answers = {str(k): accepted_answers(v) for k, v in zip(self.data["index"], self.data["answer"], strict=True)}
        # Read as text, so that an answer "None" or a number is not converted.
        data = pd.read_excel(eval_file, dtype=str, keep_default_na=False)
        pairs = zip(data["index"], data["prediction"], strict=True)
        data["score"] = [score_answer(form, text, answers[index]) for index, text in pairs]
        dump(data, get_intermediate_file_path(eval_file, "_results"))
        means = {"Overall": 100 * float(data["score"].mean())}
        if "category" in data:
            means |= {str(k): 100 * float(v) for k, v in data.groupby("category")["score"].mean().items()}
        dump(means, get_intermediate_file_path(eval_file, "_score", "json"))
        return means


def read_table(path: Path) -> pd.DataFrame:
    """Read a TSV as text; only empty cells are missing values."""
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")


def register_tables(tables: Mapping[str, Mapping[str, str]]) -> None:
    """Register these data sets with the kit: name to `path`, `form` and `images`."""
    import vlmeval.dataset as kit

    kinds = {"choice": LocalChoice, "yes_no": LocalYesNo}
    for name, table in tables.items():
        kinds.get(table["form"], LocalOpen).tables[name] = table
    for cls in (LocalChoice, LocalYesNo, LocalOpen):
        kit.DATASET_CLASSES.insert(0, cls)
        setattr(kit, cls.__name__, cls)
