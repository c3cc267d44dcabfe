"""What a data set is for the kit."""

import base64
from pathlib import Path


class ImageBaseDataset:
    """Rows in `data`; pictures are unpacked where the first row of that index was unpacked before."""

    MODALITY, TYPE = "IMAGE", "VQA"
    DATASET_MD5 = {"FINE": "0"}

    def __init__(self, dataset="MMBench"):
        self.dataset_name, self.img_root = dataset, f"/nowhere/{dataset}"
        self.data = self.load_data(dataset)

    def dump_image(self, line):
        if "image" not in line:
            return [line["image_path"]]
        path = Path(self.img_root) / f"{line['index']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            path.write_bytes(base64.b64decode(line["image"]))
        return [str(path)]

    def build_prompt(self, line):
        parts = [{"type": "image", "value": path} for path in self.dump_image(line)]
        return [*parts, {"type": "text", "value": f"The kit asks: {line['question']}"}]
