"""Multiple choice."""

from vlmeval.dataset.image_base import ImageBaseDataset
from vlmeval.smp import dump


class ImageMCQDataset(ImageBaseDataset):
    """A letter is right or not."""

    TYPE = "MCQ"

    def evaluate(self, eval_file, model, **judge):
        import pandas as pd

        data = pd.read_excel(eval_file, dtype=str)
        data["hit"] = (data["prediction"].str[:1] == data["answer"]).astype(int)
        dump(data, eval_file.replace(".xlsx", f"_{model}_result.xlsx"))
        return {"split=none|Overall": float(data["hit"].mean())}
