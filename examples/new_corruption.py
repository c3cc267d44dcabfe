"""A new corruption: images saved as low-quality JPEG, for rejected answers of preference training.

    python examples/new_corruption.py sample ... corruptions=[jpeg]

The file is the command line with one more method. Each candidate's record holds the sampled parameters.
"""

from io import BytesIO

import numpy as np
from PIL import Image

from sicog.cli import main
from sicog.generation.corruption import add_corruption

QUALITY = (2, 10)  # of 100


def draw(rng: np.random.Generator) -> dict[str, float]:
    """The parameters for one image, from a generator seeded by (seed, id)."""
    return {"quality": float(rng.integers(*QUALITY, endpoint=True))}


def jpeg(image: Image.Image, quality: float) -> Image.Image:
    """The image after JPEG compression with this quality; the size does not change."""
    file = BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


add_corruption("jpeg", draw, jpeg)

if __name__ == "__main__":
    main()
