"""A new corruption: images saved as JPEG of poor quality, for answers that preference training rejects.

    python examples/new_corruption.py sample ... corruptions=[jpeg]

The file is the command line with one more method; what it drew is in each candidate's record.
"""

from io import BytesIO

import numpy as np
from PIL import Image

from sicog.cli import main
from sicog.generation.corruption import add_corruption

QUALITY = (2, 10)  # of 100


def draw(rng: np.random.Generator) -> dict[str, float]:
    """The parameters for one image, from a generator that (seed, id) decides."""
    return {"quality": float(rng.integers(*QUALITY, endpoint=True))}


def jpeg(image: Image.Image, quality: float) -> Image.Image:
    """The image as a JPEG of this quality shows it; the same size."""
    file = BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


add_corruption("jpeg", draw, jpeg)

if __name__ == "__main__":
    main()
