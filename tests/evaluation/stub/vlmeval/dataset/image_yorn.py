"""Yes or no."""

from vlmeval.dataset.image_base import ImageBaseDataset
from vlmeval.smp import dump


class ImageYORNDataset(ImageBaseDataset):
    """The first word decides."""

    TYPE = "Y/N"

    def evaluate(self, eval_file, **judge):
        import pandas as pd

        data = pd.read_excel(eval_file, dtype=str)
        data["extracted"] = data["prediction"].str.split().str[0].fillna("").str.capitalize()
        data["score"] = data["extracted"] == data["answer"]
        dump(data, eval_file.replace(".xlsx", "_auxmatch.xlsx"))
        return {"Overall": 100 * float(data["score"].mean())}
