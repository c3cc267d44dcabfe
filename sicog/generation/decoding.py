"""Decode many sequences together: one step for all of them, while rows join and leave.

Shapes: B rows, V vocabulary, N most new tokens, P prompts, S positions to run, T columns of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sicog.generation.choose import next_tokens
from sicog.generation.sampling import SamplingConfig
from sicog.generation.slots import Rows, SlotCache, align_right, join_rows, overwrite


@dataclass(frozen=True)
class Prefilled:
    """Prompts after prefill: their cache, their lengths in it [P], and the logits of the next token [P, V]."""

    cache: SlotCache
    lengths: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True)
class Finished:
    """The result of a finished row: the caller's key, its tokens without the end token, and the finish reason."""

    key: Any
    token_ids: tuple[int, ...]
    stopped: bool


def run_tokens(
    model: Any,
    rows: Sequence[Sequence[int]],
    *,
    pad_id: int,
    features_NE: torch.Tensor | None = None,
    past: Prefilled | None = None,
) -> Prefilled:
    """Run rows of token ids of any lengths, with or without `past` (one row each). The cache of `past` is consumed.

    features_NE: visual features of the placeholders, row by row; only without `past`.
    """
    device, width = model.device, max(map(len, rows))
    ids_BS = torch.full((len(rows), width), pad_id)
    for i, row in enumerate(rows):
        ids_BS[i, width - len(row) :] = torch.tensor(row)
    new_B1 = torch.tensor([[len(row)] for row in rows])
    is_new_BS = torch.arange(width) >= width - new_B1
    before_B1 = torch.zeros_like(new_B1) if past is None else past.lengths[:, None].cpu()
    n_past = 0 if past is None else past.cache.get_seq_length()
    valid_BT = torch.cat([torch.arange(n_past) >= n_past - before_B1, is_new_BS], dim=1)
    positions_BS = before_B1 + (torch.arange(width) - (width - new_B1)).clamp(min=0)
    cache = SlotCache() if past is None else past.cache
    out = model(
        input_ids=ids_BS.to(device),
        attention_mask=_causal(valid_BT, width).to(device),
        position_ids=positions_BS.to(device),
        image_features=features_NE,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    if past is not None and not bool(is_new_BS.all()):
        align_right(cache, valid_BT.to(device))
    return Prefilled(cache, (before_B1 + new_B1)[:, 0].to(device), out.logits[:, -1])


def _causal(valid_BT: torch.Tensor, width: int) -> torch.Tensor:
    """bool [B, 1, S, T]: each of the last S positions sees itself and the valid ones before it."""
    n_columns = valid_BT.shape[1]
    order_ST = torch.arange(n_columns) <= torch.arange(n_columns - width, n_columns)[:, None]
    itself_ST = torch.arange(n_columns) == torch.arange(n_columns - width, n_columns)[:, None]
    # Padding sees itself, because a softmax over nothing is NaN.
    return ((valid_BT[:, None] & order_ST) | itself_ST)[:, None]


class Decoding:
    """The rows in progress. `live` counts unfinished rows; `take_finished` removes the others."""

    def __init__(self, model: Any, sampling: SamplingConfig, end_ids: Sequence[int]) -> None:
        self.model, self.sampling = model, sampling
        self.end_ids = torch.tensor(sorted(end_ids), device=model.device)
        self.max_positions = int(model.config.text_config.max_position_embeddings)
        self.keys: list[Any] = []
        self.cache: SlotCache | None = None
        self.live = 0
        self._state: dict[str, torch.Tensor] = {}
        self._rows_B: torch.Tensor | None = None  # the rows' places in the cache, after some have left

    def __len__(self) -> int:
        return len(self.keys)

    def join(self, prompts: Prefilled, parents: Sequence[int], keys: Sequence[Any], noise_BN: torch.Tensor) -> None:
        """Fork prompts into rows (`parents[i]` is the prompt of row i) and sample the first token of each."""
        device = self.model.device
        parents_B = torch.tensor(parents, device=device)
        length_B, n = prompts.lengths[parents_B], len(parents)
        logits_BV = prompts.logits[parents_B]
        penalised = self.sampling.repetition_penalty != 1
        new = {
            "length": length_B,
            "last": torch.zeros(n, dtype=torch.long, device=device),
            "count": torch.zeros(n, dtype=torch.long, device=device),
            # The last token is never run, so a sequence may hold one more than there are positions.
            "limit": (self.max_positions + 1 - length_B).clamp(max=self.sampling.max_new_tokens),
            "alive": torch.ones(n, dtype=torch.bool, device=device),
            # One extra column, because a finished row still writes there.
            "tokens": torch.zeros(n, self.sampling.max_new_tokens + 1, dtype=torch.long, device=device),
            "noise": noise_BN.to(device),
            "seen": torch.zeros(n, logits_BV.shape[1] if penalised else 0, dtype=torch.bool, device=device),
        }
        self._record(new, logits_BV)
        forked = Rows(prompts.cache, parents_B, int(length_B.max()))
        in_place = self._take_places(forked)
        if not in_place:
            self._settle([forked])
        self._state = {name: torch.cat([self._state[name], new[name]]) for name in new} if self.keys else new
        self.keys = [*self.keys, *keys]
        if in_place:
            self._order_by_place()
        self.live = int(self._state["alive"].sum())

    def _take_places(self, new: Rows) -> bool:
        """Write new rows to the places of rows that have left, if places and columns suffice. Others are not moved."""
        if self._rows_B is None or self.cache is None or new.columns > self.cache.get_seq_length():
            return False
        held = set(self._rows_B.tolist())
        free = [place for place in range(self.cache.n_rows) if place not in held][: len(new.rows)]
        if len(free) < len(new.rows):
            return False
        places = torch.tensor(free, device=self.model.device)
        overwrite(self.cache, places, new)
        self._rows_B = torch.cat([self._rows_B, places])
        return True

    def _order_by_place(self) -> None:
        """Sort the rows by their place in the cache."""
        assert self._rows_B is not None and self.cache is not None
        places_B, order_B = self._rows_B.sort()
        self._state = {name: x.index_select(0, order_B) for name, x in self._state.items()}
        self.keys = [self.keys[i] for i in order_B.tolist()]
        self._rows_B = None if len(self.keys) == self.cache.n_rows else places_B

    def step(self) -> None:
        """Run the last token of every row and sample the next one."""
        assert self.cache is not None
        # If columns run out, rebuild the cache without the rows that have left.
        if self._rows_B is not None or self.cache.full:
            self._settle()
        s = self._state
        s["length"] = s["length"] + 1
        n_columns = self.cache.get_seq_length() + 1
        columns_T = torch.arange(n_columns, device=self.model.device)
        out = self.model(
            input_ids=s["last"][:, None],
            attention_mask=(columns_T >= n_columns - s["length"][:, None])[:, None, None],
            position_ids=s["length"][:, None] - 1,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._record(s, out.logits[:, -1])
        self.live = int(s["alive"].sum())

    def _record(self, s: dict[str, torch.Tensor], logits_BV: torch.Tensor) -> None:
        """Sample a token for every row and store it for unfinished rows."""
        index_B1 = s["count"][:, None]
        noise_B = None
        if self.sampling.temperature > 0:
            noise_B = s["noise"].gather(1, index_B1.clamp(max=self.sampling.max_new_tokens - 1))[:, 0]
        seen_BV = s["seen"] if self.sampling.repetition_penalty != 1 else None
        token_B = next_tokens(logits_BV, noise_B, self.sampling, seen_BV)
        if seen_BV is not None:
            seen_BV.scatter_(1, token_B[:, None], True)
        s["tokens"].scatter_(1, index_B1, token_B[:, None])
        s["last"] = token_B
        s["count"] = s["count"] + s["alive"]
        s["alive"] = s["alive"] & ~torch.isin(token_B, self.end_ids) & (s["count"] < s["limit"])

    def take_finished(self) -> list[Finished]:
        """Remove all finished rows and return them in order."""
        alive = self._state["alive"].tolist() if self.keys else []
        done = [i for i, is_alive in enumerate(alive) if not is_alive]
        if not done:
            return []
        done_B = torch.tensor(done, device=self.model.device)
        counts, tokens = self._state["count"][done_B].tolist(), self._state["tokens"][done_B].tolist()
        finished, end_ids = [], set(self.end_ids.tolist())
        for i, count, ids in zip(done, counts, tokens, strict=True):
            stopped = ids[count - 1] in end_ids
            finished.append(Finished(self.keys[i], tuple(ids[: count - stopped]), stopped))
        self._keep([i for i, is_alive in enumerate(alive) if is_alive])
        return finished

    def _keep(self, rows: Sequence[int]) -> None:
        """Keep these rows. Their cache is copied later, in one copy together with new rows."""
        rows_B = torch.tensor(rows, dtype=torch.long, device=self.model.device)
        self.keys = [self.keys[i] for i in rows]
        self._state = {name: x.index_select(0, rows_B) for name, x in self._state.items()}
        self._rows_B = rows_B if self._rows_B is None else self._rows_B[rows_B]

    def _settle(self, new: Sequence[Rows] = ()) -> None:
        """Rebuild the cache from the remaining rows and then the new ones, as wide as the longest row."""
        parts = list(new)
        if self.keys:
            assert self.cache is not None
            rows_B = self._rows_B
            if rows_B is None:
                rows_B = torch.arange(len(self.keys), device=self.model.device)
            parts = [Rows(self.cache, rows_B, int(self._state["length"].max()), consumed=True), *parts]
        self.cache, self._rows_B = join_rows(parts), None
