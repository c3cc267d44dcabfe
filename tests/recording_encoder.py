"""An encoder without a model that notes what it encodes, in a file, whatever process it runs in."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sicog.curation.vectors.vector_cache import Encoded

WORDS = ("red", "blue", "cup", "mug", "dog", "table", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


@dataclass
class RecordingEncoder:
    """Counts words. A vector also tells, slightly, with how many texts it was encoded: other batches, other bytes.

    dies_at: the text at which the first process that comes to it dies, as of a lack of memory.
    """

    folder: Path
    dies_at: str | None = None
    description: str = "words"
    key: str = "words"

    def encode(self, texts):
        if self.dies_at in texts and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os._exit(9)
        with (self.folder / "encoded.jsonl").open("a") as file:
            file.write("".join(json.dumps([os.getpid(), text]) + "\n" for text in texts))
        vectors = np.array([[1 + 0.01 * len(texts), *(t.count(w) for w in WORDS)] for t in texts], dtype=np.float32)
        return Encoded(vectors, np.array([len(t) > 40 for t in texts]))

    def close(self):
        pass

    def encoded(self) -> Counter[str]:
        """How often each text was encoded so far."""
        path = self.folder / "encoded.jsonl"
        return Counter(json.loads(line)[1] for line in path.read_text().splitlines()) if path.exists() else Counter()

    def processes(self) -> set[int]:
        """Which processes encoded."""
        return {json.loads(line)[0] for line in (self.folder / "encoded.jsonl").read_text().splitlines()}
