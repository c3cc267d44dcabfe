"""A new scorer: agreement of words in place of embeddings. Scored sets in, scored sets out, then `sicog select`.

python examples/new_scorer.py data/kept-captions/scored data/by-words
sicog select input=data/by-words out_dir=data/kept threshold=0.3
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sicog.config import Config
from sicog.pipeline import FolderSource, run_stage
from sicog.records import Dropped, ScoredSet


def scores(texts: Sequence[str]) -> list[float]:
    """For each text its mean overlap of words (Jaccard) with the others of its set, in [0, 1]. Yours goes here."""
    words = [set(re.findall(r"\w+", text.lower())) for text in texts]
    overlap = [[len(a & b) / max(1, len(a | b)) for b in words] for a in words]
    return [(sum(row) - row[i]) / (len(texts) - 1) for i, row in enumerate(overlap)]


def rescore(block: Sequence[ScoredSet]) -> list[tuple[ScoredSet] | Dropped]:
    """One set for each set; candidates that cannot be chosen (`compared` is None) keep no score."""
    return [(_rescored(row),) for row in block]


def _rescored(row: ScoredSet) -> ScoredSet:
    marks = iter(scores([c.compared for c in row.candidates if c.compared is not None]))
    candidates = tuple(
        c if c.compared is None else c.model_copy(update={"score": round(next(marks), 6)}) for c in row.candidates
    )
    return row.model_copy(update={"candidates": candidates, "encoder": "overlap of words"})


def main(scored: Path, out_dir: Path) -> None:
    """A stage as all others: sharded, resumed after a kill, with a manifest."""
    run_stage(
        step="score-words",
        out_dir=out_dir,
        source=FolderSource(scored, ScoredSet),
        process=rescore,
        config=Config(),
        inputs={"scored": scored},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
