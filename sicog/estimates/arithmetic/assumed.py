"""The assumptions of estimates, used until something is measured: a device, sizes of a row. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from sicog.config import Config
from sicog.estimates.arithmetic.devices import RATES

A100_TFLOPS = RATES["A100"][0] / 1e12
UTILISATION = 0.45  # the best known of an 8B vision-language model
_TERA = 1e12


class Assumed(Config):
    """The assumptions of every estimate. A recipe sets them as `assume`; docs/runs.md has the formulas."""

    model: Path | None = None
    """A JSON of `SicogConfig` fields, for shapes while the models are not there."""
    image: str = "640x480"
    """WIDTHxHEIGHT of an image, or `none`."""
    prompt_tokens: int = Field(default=40, ge=0)
    """Tokens of a prompt."""
    answer_tokens: int = Field(default=250, ge=1)
    """Tokens of an answer."""
    tflops: float = Field(default=A100_TFLOPS, gt=0)
    """10^12 dense bfloat16 FLOP/s of a device in training."""
    utilisation: float = Field(default=UTILISATION, gt=0, le=1)
    """Share of them that is used."""
    bandwidth: float = Field(default=2.0, gt=0)
    """Memory bandwidth of a device in TB/s."""
    decode_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the bandwidth that decoding reaches."""
    keep_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the rows that a threshold keeps."""

    def seconds(self, *, flops: float = 0, bytes_moved: float = 0) -> float:
        """Time of one device for these FLOPs, and for decoding that moves these bytes."""
        computing = flops / (self.tflops * _TERA * self.utilisation)
        decoding = bytes_moved / (self.bandwidth * _TERA * self.decode_share)
        return computing + decoding


def image_size(text: str) -> tuple[int, int] | None:
    """(width, height) of WIDTHxHEIGHT; None of `none`."""
    if text == "none":
        return None
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise ValueError(f"image must be WIDTHxHEIGHT in pixels, such as 1024x768, or none; got {text!r}")
    return int(match[1]), int(match[2])
