"""The model card of a checkpoint: its README.md, as the hub shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CARD = "README.md"
_TEXT = """---
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- sicog
---

# A vision-language model of sicog

Images and text in, text out: a CLIP vision tower on slices of the image, a projector and a language model, in the
format of Transformers. The package `sicog` holds the classes.

| part | kind | size |
| --- | --- | --- |
| vision tower | {vision.model_type} | {vision.num_hidden_layers} layers of {vision.hidden_size} |
| projector | {config.projector_type} | {features} features for each view of about {config.scale}^2 pixels |
| language model | {text.model_type} | {text.num_hidden_layers} layers of {text.hidden_size}, {text.vocab_size} tokens |

```python
from PIL import Image
from sicog.model import load_checkpoint

model, processor = load_checkpoint("FOLDER")
inputs = processor(images=Image.open("photo.jpg"), text="What is shown?")
output = model.generate(**inputs, max_new_tokens=200)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :]))
```

What it was trained on, what it was measured with, and under which licence it may be used depend on its parts and data:
whoever publishes it writes them here.
"""


def write_card(folder: str | Path, config: Any) -> None:
    """Write the card of a model with this `SicogConfig`, unless the folder has one."""
    path = Path(folder) / CARD
    if not path.exists():
        text = {"config": config, "vision": config.vision_config, "text": config.text_config}
        path.write_text(_TEXT.format(features=config.query_grid**2, **text))
