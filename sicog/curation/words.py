"""Split texts into words for comparison, and hash words and n-grams to 64 bits, the same on every machine."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Scripts that are written without spaces count each character as a word.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no step of the polynomial loses bits


def words(text: str) -> list[str]:
    """Return the words of a text: lower case, without punctuation, NFKC-normalised."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()
    return _WORD.findall(folded)


def folded_text(text: str) -> str:
    """Return the text in one case with single spaces, to compare texts."""
    return " ".join(text.casefold().split())


def digest64(text: str) -> int:
    """Return a 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def word_hashes(listed: Sequence[str]) -> Hashes:
    """Return uint64 [W], one hash per word."""
    numbers = [crc32(word.encode(errors="surrogatepass")) for word in listed]
    return mix_bits(np.array(numbers, dtype=np.uint64))


def ngram_hashes(hashes_W: Hashes, n: int) -> Hashes:
    """Return uint64 [W - n + 1], one hash per n-gram of words; empty when there are fewer words."""
    if len(hashes_W) < n:
        return np.zeros(0, dtype=np.uint64)
    length = len(hashes_W) - n + 1
    result = np.zeros(length, dtype=np.uint64)
    for k in range(n):
        result = result * _FACTOR + hashes_W[k : k + length]
    return mix_bits(result)


def mix_bits(values: Hashes) -> Hashes:
    """Mix the bits of the values (finaliser of splitmix64); different values stay different."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def combine_hashes(one: Hashes, other: Hashes) -> Hashes:
    """Hash two columns, in this order, row by row."""
    return mix_bits(one * _FACTOR + mix_bits(other + _FACTOR))
