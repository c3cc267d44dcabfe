"""`lab-pick`: training rows from a scorer's picks (ScoredSet -> Example), as many as another selection keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from sicog.config import Config
from sicog.curation.score.self_consistency import hash128
from sicog.curation.select.select import count_kept_rows, to_example
from sicog.lab.compare_scorers import cached_encoder, scores_of
from sicog.lab.scorers import SCORERS, load_scorer
from sicog.lab.true_candidates import LabTask, read_rows
from sicog.records import Dropped, Example, ScoredSet
from sicog.stages.config import StageOptions
from sicog.stages.reader import FolderSource
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Outcome

STEP = "lab-pick"


class PickConfig(Config):
    """Config of `lab-pick`."""

    input: Path
    """Scored sets."""
    out_dir: Path
    keep_rows_of: Path
    """A dataset whose number of rows is kept. The rows with the highest scores stay; the seed breaks ties."""
    scorer: Path | None = None
    """A Python file with `score(row, embed)`; null: the scorer of the method."""
    k: int | None = Field(default=None, ge=2)
    """Number of candidates of each row to use, sampled by the seed and the row's id; null: all."""
    seed: int = 0


@dataclass(frozen=True)
class Pick:
    """The kept candidate of a row: its place among all candidates, and the number of candidates used."""

    place: int
    k: int


def pick(config: PickConfig) -> Path:
    """Write the dataset `out_dir` of `Example`; returns it. Raises `ValueError` when there are not enough rows."""
    inputs = {"scored": config.input, "keep_rows_of": config.keep_rows_of}
    return run_stage(
        Stage(
            step=STEP,
            out_dir=config.out_dir,
            source=FolderSource(config.input, ScoredSet),
            process=_LazyPicks(config),
            inputs=inputs | ({"scorer": config.scorer} if config.scorer else {}),
        ),
        config,
        StageOptions(max_dropped_share=None),
    )


class _LazyPicks:
    """Process of the stage. The scorer runs on all rows at the first block, so a finished folder costs nothing."""

    def __init__(self, config: PickConfig) -> None:
        self.config = config
        self.picks: dict[str, Pick] | None = None

    def __call__(self, block: Sequence[ScoredSet]) -> list[Outcome]:
        if self.picks is None:
            self.picks = picks_by_id(self.config)
        return [self._one(row, self.picks.get(row.id)) for row in block]

    def _one(self, row: ScoredSet, found: Pick | None) -> Outcome:
        if found is None:
            return Dropped(id=row.id, step=STEP, reason="not_picked", detail="too low, or no two candidates")
        return (Example.model_validate(to_example(row.model_dump(mode="json"), found.place, found.k)),)


def picks_by_id(config: PickConfig) -> dict[str, Pick]:
    """Return the kept candidates by row id. Raises `ValueError` when too few rows have a choice."""
    rows = read_rows(config.input, None)
    seen = [sampled_places(len(row.texts), config.k, config.seed, row.query.id) for row in rows]
    looked_at = tuple(row.of(places) for row, places in zip(rows, seen, strict=True))
    name = config.scorer.stem if config.scorer else "consistency"
    scorer = load_scorer(config.scorer) if config.scorer else SCORERS[name]
    embed = cached_encoder(LabTask(name, config.input, looked_at, 0))
    scores = scores_of(name, scorer, looked_at, embed)
    wanted = count_kept_rows(config.keep_rows_of)
    if wanted > len(rows):
        raise ValueError(
            f"{config.keep_rows_of} has {wanted} rows, but only {len(rows)} rows of {config.input} have a choice. "
            f"Set keep_rows_of to a smaller dataset"
        )
    found = {}
    for number in highest_places([max(s) for s in scores], [row.query.id for row in rows], wanted, config.seed):
        best = scores[number].index(max(scores[number]))
        found[rows[number].query.id] = Pick(rows[number].places[seen[number][best]], len(seen[number]))
    return found


def sampled_places(n: int, k: int | None, seed: int, row_id: str) -> list[int]:
    """Return k of n places in order, sampled by (seed, id); all places if k is None or at least n."""
    order = sorted(range(n), key=lambda place: hash128(seed, "k", row_id, str(place)))
    return sorted(order[:k])


def highest_places(values: Sequence[float], ids: Sequence[str], n: int, seed: int) -> list[int]:
    """Return the numbers of the n highest values; of equal values those with the lowest hash of their id."""
    return sorted(range(len(ids)), key=lambda i: (-values[i], hash128(seed, "row", ids[i])))[:n]
