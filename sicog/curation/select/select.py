"""Keep the most consistent candidate of each query, or drop the query (`sicog select`): ScoredSet -> Example.

Writes the kept examples, `dropped.jsonl` with reasons, and preference pairs under `pairs/`. The human turn of an
example is the prompt of the style of the chosen candidate. Its answer is the candidate's full text, as are both sides
of a pair.

Rows are chosen from columns of scores, without the texts. Only kept rows are parsed; they were validated when the
columns were made.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field, model_validator

from sicog.answers import final_answer
from sicog.curation.score.columns import Columns, RawRow, RawRows, all_columns, columns_of, read_columns
from sicog.curation.score.self_consistency import draw_integer, hash128, lower_half_places
from sicog.curation.select.threshold import PAPER_K, By, Threshold, read_threshold
from sicog.curation.select.verdicts import KEPT, Reasons, Rule, Styles, Verdicts, eligible, verdicts
from sicog.curation.words import folded_text
from sicog.records import Dropped, PreferencePair, Query, ScoredSet
from sicog.stages.config import StageConfig
from sicog.stages.reader import UNREADABLE, FolderSource
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Line, Outcome
from sicog.stages.storage import MANIFEST, read_json, read_records, shards
from sicog.tasks import TASKS

PAIRS = "pairs"
STEP = "select"


class SelectConfig(StageConfig):
    """Config of `sicog select`. Unreadable rows are dropped by name."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "max_dropped_share"})
    input: Path
    """A folder of scored sets."""
    out_dir: Path
    by: By = "score"
    threshold: float | None = Field(default=None, ge=-1, le=1)
    """Minimum value of the chosen candidate of a kept row, stated for `threshold_k` candidates. It is compared as
    agreement without self, (K t - 1) / (K - 1), for any number of candidates. At 3, the paper's thresholds 0.80, 0.85
    and 0.90 mean an agreement of 0.70, 0.775 and 0.85."""
    threshold_file: Path | None = None
    """Use instead of `threshold`: the file that the sweep wrote, with the threshold and its K."""
    threshold_k: int = Field(default=PAPER_K, ge=2)
    min_candidates: int = Field(default=3, ge=2)
    styles: Styles | None = None
    styles_kept: Literal["chosen", "both"] = "chosen"
    """`both` adds a second row for a kept chain, in the plain style of its task. Its answer is the body of the last
    step, so that the chain also teaches the bare answer. Its id is `ID~STYLE`; `extra.of` is the first row's id."""
    exclude: tuple[Path, ...] = ()
    choose: Literal["best", "random"] = "best"
    """`random` is the control: it samples as many rows as `keep_rows_of` has, by the seed, and any comparable candidate
    of each. It makes no pairs."""
    keep_rows_of: Path | None = None
    """Dataset whose number of rows is kept, for `choose: random`; null: all rows."""
    seed: int = 0
    block_size: int = Field(default=1024, ge=1)
    rows_per_shard: int = Field(default=8192, ge=1)

    @model_validator(mode="after")
    def _check_rule(self) -> SelectConfig:
        cuts = [self.threshold is not None, self.threshold_file is not None]
        if self.choose == "best" and not any(cuts):
            raise ValueError("threshold is missing. Set threshold, for example 0.85, or threshold_file")
        if self.choose == "best" and all(cuts):
            raise ValueError(
                "threshold and threshold_file are both set. Set only one; "
                "threshold=null removes the threshold of a config"
            )
        if self.choose == "best" and self.keep_rows_of:
            raise ValueError("keep_rows_of needs choose: random. Remove keep_rows_of, or set choose: random")
        if self.choose == "random" and any(cuts):
            raise ValueError("choose: random does not use a threshold. Remove it; keep_rows_of sets the number of rows")
        return self

    def rule(self) -> Rule:
        """Return the selection rule. Raises `ValueError` when the threshold file does not match this config."""
        cut = None
        if self.threshold_file is not None:
            cut = read_threshold(self.threshold_file, self.by, self.styles, self.min_candidates)
        elif self.threshold is not None:
            cut = Threshold(self.threshold, self.threshold_k)
        return Rule(self.by, cut, self.styles, self.min_candidates)

    def check(self) -> None:
        """Raise `ValueError` when the threshold file or an `exclude` folder is missing; needs no input yet."""
        self.rule()
        for folder in self.exclude:
            shards(folder)


def select(config: SelectConfig) -> Path:
    """Select from all scored sets and write the dataset `out_dir` of `Example`; returns it."""
    columns, rule, exclude = columns_of(config.input), config.rule(), excluded_rows(config.exclude)
    pick: Callable[[Columns, Verdicts], Verdicts] | None = None
    if config.choose == "random":
        pick = AtRandom(config.seed, rule, _last_hash(config, columns, rule, exclude))
    given: dict[str, Path | None] = {
        "scored": config.input,
        "threshold": config.threshold_file,
        "keep_rows_of": config.keep_rows_of,
        **{f"exclude-{i}": folder for i, folder in enumerate(config.exclude)},
    }
    return run_stage(
        Stage(
            step=STEP,
            out_dir=config.out_dir,
            source=RawRows(FolderSource(config.input, ScoredSet)),
            process=SelectRows(columns, rule, exclude, config.seed, config.styles_kept == "both", pick),
            inputs={name: path for name, path in given.items() if path},
            outputs={PreferencePair: PAIRS},
            limited_reasons=frozenset({UNREADABLE}),
        ),
        config,
    )


def excluded_rows(folders: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """Return reason and detail by row id; of several folders with a row, the first one counts."""
    found: dict[str, tuple[str, str]] = {}
    for folder in folders:
        for row in read_records(folder, Dropped):
            found.setdefault(row.id, (row.reason, row.detail))
    return found


@dataclass(frozen=True)
class SelectRows:
    """Process of the stage: verdicts on a block of rows, then the kept rows as examples, with a pair if possible.

    `pick` may change the verdicts; then there are no pairs.
    """

    columns: Path
    rule: Rule
    exclude: Reasons
    seed: int
    both: bool = False
    pick: Callable[[Columns, Verdicts], Verdicts] | None = None

    def __call__(self, block: Sequence[RawRow]) -> list[Outcome]:
        columns = read_columns(self.columns, block[0].number, block[-1].number + 1)
        found = verdicts(columns, self.rule, self.exclude)
        if self.pick:
            found = self.pick(columns, found)
        places, counts = found.chosen.tolist(), found.k.tolist()
        return [
            Dropped(id=columns.ids[i], step=STEP, reason=found.reasons[i], detail=found.details[i])
            if found.reasons[i]
            else self._kept_row(raw, columns.ids[i], places[i], counts[i])
            for i, raw in enumerate(block)
        ]

    def _kept_row(self, raw: RawRow, row_id: str, place: int, k: int) -> Outcome:
        try:
            row = orjson.loads(raw.line)
            if row["id"] != row_id:
                raise ValueError(f"its line is that of row {row['id']}")
            lines = [Line(_json(to_example(row, place, k)))]
            lines += [Line(_json(plain)) for plain in [plain_example(row, place, k)] if self.both and plain]
            pair = None if self.pick else preference_pair(row, place, self.rule.by, self.seed)
        except (ValueError, KeyError, IndexError, TypeError) as error:  # the shard was damaged after it was scored
            return Dropped(id=row_id, step=STEP, reason=UNREADABLE, detail=f"not a ScoredSet ({error!r})")
        return [*lines, Line(_json(pair), PAIRS)] if pair else lines


def _json(record: Mapping[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def to_example(row: Mapping[str, Any], place: int, k: int) -> dict[str, Any]:
    """Return the training example of a scored row's chosen candidate, as the JSON of an `Example`.

    `extra` has style, index, seed and checkpoint of the candidate, its scores, k, and the query's own keys. A query key
    with one of these names becomes `query.NAME`.
    """
    picked, query = row["candidates"][place], row["query"]
    candidate = picked["candidate"]
    marks = {
        "style": candidate["style"],
        "index": candidate["index"],
        "seed": candidate["seed"],
        "checkpoint": candidate["checkpoint"],
        "score": picked["score"],
        "agreement": picked["agreement"],
        "vote": picked["vote"],
        "margin": picked["margin"],
        "k": k,
    }
    given = {f"query.{key}" if key in marks else key: value for key, value in query["extra"].items()}
    return {
        "id": row["id"],
        "images": query["images"],
        "turns": [_user_turn(query, candidate), {"role": "assistant", "text": candidate["text"], "images_at": []}],
        "source": query["task"],
        "extra": given | marks,
    }


def plain_example(row: Mapping[str, Any], place: int, k: int) -> dict[str, Any] | None:
    """Return the example of a chosen chain in the plain style of its task; None when the text is not a chain."""
    picked, query = row["candidates"][place], row["query"]
    task = TASKS[query["task"]]
    if task.style(picked["candidate"]["style"]).chain is None:
        return None
    style = task.plain_style
    made = {"style": style, "prompt": task.prompt(Query(**query), style), "text": picked["compared"]}
    plain = {**picked, "candidate": {**picked["candidate"], **made}}
    example = to_example({**row, "candidates": [plain]}, 0, k)
    return {**example, "id": f"{row['id']}~{style}", "extra": {**example["extra"], "of": row["id"]}}


def _user_turn(query: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "user", "text": candidate["prompt"], "images_at": [0] * len(query["images"])}


def preference_pair(row: Mapping[str, Any], place: int, by: By, seed: int) -> dict[str, Any] | None:
    """Return the chosen candidate and one of the lower half as the JSON of a `PreferencePair`.

    None when no lower candidate differs in text and answer.
    """
    query, best = row["query"], row["candidates"][place]
    compared = [c for c in row["candidates"] if c["excluded"] is None]
    lower = lower_half_places([(c[by], c["score"] or 0.0) for c in compared])
    rivals = [c for i in lower if (c := compared[i])[by] < best[by] and _candidates_differ(query, c, best)]
    if not rivals:
        return None
    other = rivals[draw_integer(len(rivals), seed, "rejected", row["id"])]
    return {
        "id": row["id"],
        "images": query["images"],
        "prompt": [_user_turn(query, best["candidate"])],
        "chosen": best["candidate"]["text"],
        "rejected": other["candidate"]["text"],
        "chosen_score": best[by],
        "rejected_score": other[by],
        "margin": round(best[by] - other[by], 9),
    }


def _candidates_differ(query: Mapping[str, Any], one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two candidates differ in text (beyond case and white space) and, if short, in their answer."""
    if one["candidate"]["text"] == other["candidate"]["text"]:
        return False
    if not TASKS[query["task"]].votes:
        return folded_text(one["compared"]) != folded_text(other["compared"])
    return _answer(query, one) != _answer(query, other)


def _answer(query: Mapping[str, Any], scored: Mapping[str, Any]) -> str:
    return scored["answer"] or final_answer(scored["compared"], query["question"])


@dataclass(frozen=True)
class AtRandom:
    """The control: keep the rows whose hash is at most `last` (None: all), with a random candidate of each."""

    seed: int
    rule: Rule
    last: int | None

    def __call__(self, columns: Columns, found: Verdicts) -> Verdicts:
        chosen, allowed = found.chosen.copy(), columns.places(eligible(columns, self.rule.styles))
        for row, row_id in enumerate(columns.ids):
            if found.reasons[row]:
                continue
            if self.last is not None and _row_hash(row_id, self.seed) > self.last:
                found.reasons[row], found.details[row] = "not_drawn", "random control"
                continue
            chosen[row] = allowed[row][draw_integer(len(allowed[row]), self.seed, "candidate", row_id)]
        return Verdicts(found.reasons, found.details, chosen, found.agreement, found.k)


def _row_hash(row_id: str, seed: int) -> int:
    return hash128(seed, "row", row_id)


def count_kept_rows(folder: Path) -> int:
    """Return the number of input rows that a dataset keeps; `styles_kept: both` makes two examples of a row."""
    shards(folder)
    manifest = read_json(folder / MANIFEST)
    return int(manifest.get("rows_kept", manifest["rows_out"]))


def _last_hash(config: SelectConfig, columns: Path, rule: Rule, exclude: Reasons) -> int | None:
    """Return the largest row hash that the control keeps, so that it keeps as many rows as `keep_rows_of`."""
    if config.keep_rows_of is None:
        return None
    wanted = count_kept_rows(config.keep_rows_of)
    hashes = (
        _row_hash(row_id, config.seed)
        for part in all_columns(columns)
        for row_id, reason in zip(part.ids, verdicts(part, rule, exclude).reasons, strict=True)
        if reason == KEPT
    )
    smallest = heapq.nsmallest(wanted, hashes)
    if len(smallest) < wanted:
        raise ValueError(
            f"keep_rows_of: {config.keep_rows_of} has {wanted} rows, but only {len(smallest)} of {config.input} have "
            f"a candidate to choose. Name a smaller dataset"
        )
    return smallest[-1] if smallest else -1
