"""The assumptions of estimates, used until something is measured: a device, sizes of a row. Needs no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from sicog.config import Config
from sicog.estimates.arithmetic.devices import RATES

A100_TFLOPS = RATES["A100"][0] / 1e12
UTILISATION = 0.45  # the best known of an 8B vision-language model
_TERA = 1e12
_MEASURED = Path("runs/gpu-proof.json")
_FIGURES = ("tflops", "utilisation", "bandwidth", "decode_share")


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
    measured: Path = _MEASURED
    """What `make gpu-proof` has written. If the file is there, its figures replace the defaults of tflops, utilisation,
    bandwidth and decode_share."""

    @model_validator(mode="before")
    @classmethod
    def _use_what_was_measured(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**_figures(Path(values.get("measured", _MEASURED))), **values}

    @property
    def device(self) -> str:
        """The measured device and the date; empty if the figures are assumed."""
        return _device(self.measured) if _figures(self.measured) else ""

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


def _figures(path: Path) -> dict[str, float]:
    """The figures in a file of `make gpu-proof`; none without the file. Raises `ValueError` if it is broken."""
    if not path.is_file():
        return {}
    try:
        plan = json.loads(path.read_text())["plan"]
        return {name: float(plan[name]) for name in _FIGURES if name in plan}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not what `make gpu-proof` writes: {error!r}. Run it again, or remove the file"
        ) from error


def _device(path: Path) -> str:
    found = json.loads(path.read_text())
    return f"{found.get('hardware', {}).get('gpu', 'unknown device')}, {found.get('date', 'no date')}"
