"""Decode many sequences together: one step for all of them, while sequences join and leave their slots.

Shapes: B slots, R of them that join, V vocabulary, N most new tokens, P prompts, S positions to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sicog.generation.choose import next_tokens
from sicog.generation.recorded import Ends, RecordedStep
from sicog.generation.sampling import SamplingConfig
from sicog.generation.slots import SlotCache
from sicog.model.kernels.slot_attention import slot_arguments


@dataclass(frozen=True)
class Prefilled:
    """Prompts after prefill: their cache, their lengths, and the logits of the next token [P, V]."""

    cache: SlotCache
    lengths: tuple[int, ...]
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
    """Run rows of token ids of any lengths, with or without `past` (one row each). The cache of `past` is written to.

    features_NE: visual features of the placeholders, row by row; only without `past`.
    """
    device, width = model.device, max(map(len, rows))
    # Padding comes last, where no token sees it. Its keys and values are overwritten by the next tokens.
    ids_PS = torch.full((len(rows), width), pad_id)
    for i, row in enumerate(rows):
        ids_PS[i, : len(row)] = torch.tensor(row)
    before = (0,) * len(rows) if past is None else past.lengths
    cache = SlotCache(len(rows), width, device) if past is None else past.cache
    cache.width = max(before) + width
    cache.grow(cache.width)
    out = model(
        input_ids=ids_PS.to(device),
        position_ids=cache.lengths[:, None] + torch.arange(width, device=device),
        image_features=features_NE,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=torch.arange(0, device=device),
        **slot_arguments(model, cache, width),
    )
    new_P = torch.tensor([len(row) for row in rows], device=device)
    cache.lengths = cache.lengths + new_P
    last_PE = out.last_hidden_state[torch.arange(len(rows), device=device), new_P - 1]
    lengths = tuple(n + len(row) for n, row in zip(before, rows, strict=True))
    return Prefilled(cache, lengths, model.logits(last_PE[:, None])[:, 0])


class Decoding:
    """The sequences in progress, each in a slot. `live` counts those that are not known to have finished.

    On a GPU a step is recorded once and replayed, and what has ended is known one step later, so that the GPU never
    waits for the host.
    """

    def __init__(
        self, model: Any, sampling: SamplingConfig, end_ids: Sequence[int], *, n_slots: int, columns: int
    ) -> None:
        """columns: of a slot. On a CPU slots grow when they have to, so it is only a start."""
        self.model, self.sampling = model, sampling
        self.max_positions = int(model.config.text_config.max_position_embeddings)
        device, n = model.device, n_slots
        self.keys: list[Any] = [None] * n
        self.cache = SlotCache(n, columns, device)
        self._lengths = [0] * n  # as `cache.lengths`, as far as the host knows
        self._ended = [False] * n
        n_vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._ends_V = torch.zeros(n_vocabulary, dtype=torch.bool, device=device)
        self._end_ids = {i for i in end_ids if 0 <= i < n_vocabulary}
        self._ends_V[sorted(self._end_ids)] = True
        self._state = self._new_state(n)
        self._logits_BV: torch.Tensor | None = None
        on_gpu = device.type == "cuda"
        self.recorded = RecordedStep(sampling) if on_gpu else None
        self._ends = Ends(n, device) if on_gpu else None

    def __len__(self) -> int:
        """The number of slots that are taken."""
        return sum(key is not None for key in self.keys)

    @property
    def live(self) -> int:
        """The number of sequences that are not known to have finished."""
        return sum(key is not None and not ended for key, ended in zip(self.keys, self._ended, strict=True))

    @property
    def logits(self) -> torch.Tensor:
        """[B, V]: of the last step."""
        assert self._logits_BV is not None
        return self._logits_BV

    @property
    def tokens(self) -> torch.Tensor:
        """int64 [B, N + 1]: what each slot has sampled so far, then zeros."""
        return self._state["tokens"]

    def _new_state(self, n: int) -> dict[str, torch.Tensor]:
        device, longest = self.model.device, self.sampling.max_new_tokens
        penalised, sampled = self.sampling.repetition_penalty != 1, self.sampling.temperature > 0
        return {
            "last": torch.zeros(n, dtype=torch.long, device=device),
            "count": torch.zeros(n, dtype=torch.long, device=device),
            "limit": torch.zeros(n, dtype=torch.long, device=device),
            "alive": torch.zeros(n, dtype=torch.bool, device=device),
            # One extra column, because a finished row still writes there.
            "tokens": torch.zeros(n, longest + 1, dtype=torch.long, device=device),
            "noise": torch.zeros(n, longest if sampled else 0, device=device),
            "seen": torch.zeros(n, len(self._ends_V) if penalised else 0, dtype=torch.bool, device=device),
        }

    def join(self, prompts: Prefilled, parents: Sequence[int], keys: Sequence[Any], noise_RN: torch.Tensor) -> None:
        """Fork prompts into free slots (`parents[i]` is the prompt of row i) and sample the first token of each."""
        device = self.model.device
        places = [place for place, key in enumerate(self.keys) if key is None][: len(keys)]
        parents_R, places_R = torch.tensor(parents, device=device), torch.tensor(places, device=device)
        self.cache.grow(max(prompts.lengths[parent] for parent in parents))
        self.cache.write_rows(places_R, prompts.cache, parents_R)
        new = self._new_state(len(keys))
        # The last token is never run, so a sequence may hold one more than there are positions.
        room_R = self.max_positions + 1 - prompts.cache.lengths[parents_R]
        new["limit"] = room_R.clamp(max=self.sampling.max_new_tokens)
        new["alive"].fill_(True)
        new["noise"].copy_(noise_RN.to(device))
        self._record(new, prompts.logits[parents_R])
        for name, x in self._state.items():
            x[places_R] = new[name]
        for place, parent, key in zip(places, parents, keys, strict=True):
            self.keys[place], self._lengths[place] = key, prompts.lengths[parent]
        self._look(self._state["alive"].tolist())
        if self._ends is not None:
            self._ends.forget()

    def step(self) -> None:
        """Run the last token of every row and sample the next one."""
        taken = [n for n, key in zip(self._lengths, self.keys, strict=True) if key is not None]
        if self.recorded is None:
            # Rows that have left write too, so there must be columns for them; nobody looks at those.
            self.cache.grow(max(self._lengths) + 1)
            self.cache.width = max(taken) + 1
            self.run()
            self.choose()
        else:
            self.cache.width = self.cache.columns
            self.recorded.step(self.run, self.choose)
        self._lengths = [n + (not ended) for n, ended in zip(self._lengths, self._ended, strict=True)]
        alive_B = self._state["alive"]
        self._look(alive_B.tolist() if self._ends is None else self._ends.one_step_late(alive_B))

    def _look(self, alive: Sequence[bool] | None) -> None:
        if alive is not None:
            self._ended = [not is_alive for is_alive in alive]

    def run(self) -> None:
        """The logits of the next tokens. Nothing here depends on values, only on shapes."""
        s, cache = self._state, self.cache
        out = self.model(
            input_ids=s["last"][:, None],
            position_ids=cache.lengths[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **slot_arguments(self.model, cache, 1),
        )
        self._logits_BV = out.logits[:, -1]

    def choose(self) -> None:
        """Sample the next tokens. A finished row stays where it is and writes over its last column."""
        self.cache.lengths += self._state["alive"]
        self._record(self._state, self.logits)

    def _record(self, s: dict[str, torch.Tensor], logits_BV: torch.Tensor) -> None:
        """Sample a token for every row and store it for unfinished rows, all in place."""
        index_B1 = s["count"][:, None]
        noise_B = None
        if self.sampling.temperature > 0:
            noise_B = s["noise"].gather(1, index_B1.clamp(max=self.sampling.max_new_tokens - 1))[:, 0]
        seen_BV = s["seen"] if self.sampling.repetition_penalty != 1 else None
        token_B = next_tokens(logits_BV, noise_B, self.sampling, seen_BV)
        if seen_BV is not None:
            seen_BV.scatter_(1, token_B[:, None], True)
        s["tokens"].scatter_(1, index_B1, token_B[:, None])
        s["last"].copy_(token_B)
        s["count"].add_(s["alive"])
        s["alive"].logical_and_(~self._ends_V[token_B]).logical_and_(s["count"] < s["limit"])

    def take_finished(self) -> list[Finished]:
        """Free the slots of all finished rows and return those rows in order."""
        done = [i for i, key in enumerate(self.keys) if key is not None and self._ended[i]]
        if not done:
            return []
        done_R = torch.tensor(done, device=self.model.device)
        counts, tokens = self._state["count"][done_R].tolist(), self._state["tokens"][done_R].tolist()
        finished = []
        for i, count, ids in zip(done, counts, tokens, strict=True):
            stopped = ids[count - 1] in self._end_ids
            finished.append(Finished(self.keys[i], tuple(ids[: count - stopped]), stopped))
            self.keys[i] = None
        return finished

    def shrink(self) -> None:
        """Copy the sequences in progress together, into as many slots, if no others will join. A CUDA graph stays."""
        if self.recorded is not None:
            return
        kept = [i for i, key in enumerate(self.keys) if key is not None]
        kept_R = torch.tensor(kept, device=self.model.device)
        self.cache = self.cache.with_rows(kept, self.cache.columns)
        self._state = {name: x[kept_R] for name, x in self._state.items()}
        self.keys = [self.keys[i] for i in kept]
        self._lengths, self._ended = [self._lengths[i] for i in kept], [self._ended[i] for i in kept]
