"""The typed config of `sicog train`. The stages differ by their YAML only. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sicog.config import Config
from sicog.config.packages import missing_package_message, older_package_message
from sicog.data.batching import accumulation_steps
from sicog.data.config import DataConfig, NoiseConfig
from sicog.model.hub import local_model
from sicog.model.kernels.choice import Attention, CheckpointingChoice, Kernels
from sicog.model.part_names import PARTS, Part
from sicog.model.precision import Precision
from sicog.training.parallel.kind import Parallel

_MODELS = ("checkpoint", "vision_tower", "language_model", "projector")
# Trackers of the Trainer whose package has the same name. The Trainer reports other missing packages itself.
_TRACKERS = ("wandb", "mlflow", "comet_ml", "clearml", "neptune", "codecarbon", "dvclive", "swanlab", "trackio")
_PAPERS_BATCH = {"align": 256, "warmup": 128, "pretrain": 128, "sft": 128, "dpo": 128}


class ImageSettings(Config):
    """Image processor settings of a model built from parts, in addition to `model.config`."""

    normalize_on: Literal["host", "device"] = "host"
    """`device` passes uint8 patches to the model, a quarter of the bytes; the values are the same."""
    long_side: int | None = Field(default=None, gt=0)
    """Resize the long side of every image to this first."""
    max_patches: int = Field(default=2304, gt=0)
    """Images with a larger view are dropped."""


class ModelSource(Config):
    """Source of the weights: a whole `checkpoint`, or parts. Values are folders, or ids of Hugging Face models in the
    local cache."""

    checkpoint: Path | None = None
    """A whole checkpoint with its own turn format, config and image settings; without it, give the parts below."""
    vision_tower: Path | None = None
    """A CLIP vision tower."""
    language_model: Path | None = None
    """A causal language model."""
    projector: Path | None = None
    """A finished align run, a .safetensors file, or an original mm_projector.bin. Only align may start without one;
    its weights are then random."""
    turn_format: Literal["chatml", "llama3"] | None = None
    """Turn format of a model built from parts; null: chatml."""
    config: dict[str, Any] = {}
    """Values of `SicogConfig` for a model built from parts, such as scale (a slice has about scale x scale pixels),
    max_slices, query_grid (a view becomes query_grid x query_grid features) and projector_type (resampler or mlp)."""
    image: ImageSettings = ImageSettings()
    """Image settings of a model built from parts. They are saved with it, so sampling uses them too."""

    @model_validator(mode="after")
    def _check_parts(self) -> ModelSource:
        has_image = self.image != ImageSettings()
        of_parts = (self.vision_tower, self.language_model, self.projector, self.turn_format, self.config, has_image)
        if self.checkpoint and any(of_parts):
            raise ValueError(
                "give checkpoint, or else vision_tower and language_model (with projector, turn_format, config, image)"
            )
        if not self.checkpoint and not (self.vision_tower and self.language_model):
            raise ValueError("give checkpoint, or both vision_tower and language_model")
        return self

    def inputs(self) -> dict[str, Path]:
        """The input files and folders, by name."""
        return {f"model.{name}": path for name in _MODELS if (path := getattr(self, name)) is not None}

    def with_local_folders(self) -> ModelSource:
        """The same source with local folders instead of hub ids.

        Raises `ValueError` for a missing model, with the command that downloads it.
        """
        given = {name: getattr(self, name) for name in _MODELS}
        return self.model_copy(
            update={name: local_model(path, f"model.{name}") for name, path in given.items() if path is not None}
        )


class DpoConfig(Config):
    """loss = alpha * mean over pairs of -log sigmoid(beta * margin) + gamma * cross-entropy of the chosen answers.

    The margin is the model's preference for chosen over rejected, minus that of the reference model.
    """

    beta: float = Field(default=0.1, gt=0)
    """Factor of the margin."""
    alpha: float = Field(default=1.0, gt=0)
    """Weight of the preference loss."""
    gamma: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of the chosen answers."""
    reference: Path | None = None
    """Checkpoint of the reference model; null: the initial weights of the training."""


class LoraSettings(Config):
    """Low-rank adapters, trained instead of the language model's own weights; see `sicog.training.lora`."""

    r: int = Field(default=64, gt=0)
    """Rank of the adapters."""
    alpha: float = Field(default=128.0, gt=0)
    """The product of the two small matrices is scaled by alpha / r."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout of the adapters' inputs."""
    targets: tuple[str, ...] | None = None
    """Names of the linear layers with adapters, such as q_proj; null: all in the language model's blocks."""


class TrainConfig(Config):
    """One training stage.

    Weights are kept and saved in float32. Under zero2 and zero3 with bfloat16, weights and checkpoint are bfloat16, and
    the optimizer's shards hold float32 copies.
    """

    volatile: ClassVar[frozenset[str]] = frozenset(
        {
            "workers",
            "save_steps",
            "save_minutes",
            "save_total_limit",
            "keep_every",
            "keep_checkpoints",
            "tensorboard",
            "report_to",
            "gradient_checkpointing",
            "attention",
            "kernels",
            "compile",
            "check_memory",
        }
    )

    also: ClassVar[Mapping[str, str]] = {"input": "data.path", "image_folder": "data.image_folder"}
    formerly: ClassVar[Mapping[str, str]] = {"run_dir": "out_dir"}

    stage: Literal["warmup", "align", "pretrain", "sft", "dpo"]
    """Stage of the method."""
    objective: Literal["next_token", "dpo"] = "next_token"
    """`next_token` trains on the assistant's text; `dpo` on preference pairs, with the values under `dpo`. A row is
    then a pair: two conversations, each with at most max_length tokens."""
    dpo: DpoConfig = DpoConfig()
    out_dir: Path
    """Folder to write: checkpoints, metrics and the final model."""
    model: ModelSource
    data: DataConfig
    trainable: tuple[Part, ...] = PARTS
    """Parts to train. The others are frozen."""
    slicing: bool = True
    """Whether to cut images into slices; false: only the thumbnail."""
    noise: NoiseConfig = NoiseConfig()

    learning_rate: float = Field(gt=0)
    """Highest learning rate. After the warm-up it decays like a cosine."""
    learning_rates: dict[Part, Annotated[float, Field(gt=0)]] = {}
    """Learning rates of parts that differ from `learning_rate`. All have the same schedule."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` stores the moments in 8 bits (needs bitsandbytes and CUDA)."""
    lora: LoraSettings | None = None
    """Train adapters instead of the language model's own weights. Other parts of `trainable` are trained whole. null:
    no adapters."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the updates with a rising learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the optimizer."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to this norm."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data."""
    max_steps: int | None = Field(default=None, gt=0)
    """Number of updates, instead of `epochs`."""
    global_batch: int | None = Field(default=None, gt=0)
    """Rows of an update over all processes; it decides the accumulation. null: computed from `accumulation` if given,
    else the paper's value, 256 for align and 128 for other stages."""
    accumulation: int | None = Field(default=None, gt=0)
    """Micro-batches of an update on each device. It sets global_batch to device_batch x accumulation x processes."""
    device_batch: int = Field(gt=0)
    """Rows of a micro-batch on one device."""
    max_length: int = Field(default=4096, gt=0)
    """Maximum number of tokens of a row, image features included."""
    group_by_length: bool = False
    """Put rows of similar length into the same batch, which saves padding."""
    packing: Literal["off", "step", "epoch"] = "off"
    """`step` packs the rows of each update into micro-batches without padding. `epoch` packs the rows of a whole epoch,
    with global_batch as the mean number of rows of an update. `off` pads device_batch rows. For packed rows the two
    limits below decide the accumulation; `accumulation` then only sets the number of rows."""
    pack_tokens: int | None = Field(default=None, gt=0)
    """Maximum number of positions of a packed micro-batch; null: device_batch x max_length, for dpo twice that."""
    pack_views: int | None = Field(default=None, gt=0)
    """Maximum number of views (slices and thumbnails) of a packed micro-batch; null: device_batch x 8, or the views of
    the largest row; for dpo twice that."""
    seed: int = Field(default=42, ge=0)
    """Seed of the row order, the noise and new weights."""
    precision: Precision = "auto"
    """`auto` is bfloat16 autocast on a GPU and float32 on a CPU. `native` is bfloat16 also on CPUs that support it.
    """
    parallel: Parallel = "auto"
    """Kind of data parallelism; see `sicog.training.parallel.sharding`. `auto` is zero2 with several GPUs and
    deepspeed, else ddp."""
    offload: bool = False
    """Keep the optimizer states, and with zero3 the weights, in CPU memory."""
    gradient_checkpointing: CheckpointingChoice = "none"
    """Save memory: compute results of layers again in the backward pass. `full` recomputes everything; `selective`
    keeps the results of matrix products and attention; see `sicog.training.recompute`. `auto`: as little as the
    computed memory of the heaviest micro-batch allows on this GPU; `none` without a GPU."""
    attention: Attention = "auto"
    """Implementation of attention; see `sicog.model.kernels.choice`."""
    kernels: Kernels = "auto"
    """Fused kernels; see `sicog.model.kernels.choice`."""
    compile: bool = False
    """Whether to compile the model; see `sicog.model.kernels.choice`."""
    check_memory: bool | None = None
    """Run the heaviest micro-batch before the first update, to fail early on out-of-memory; null: only on a GPU."""

    save_steps: int | None = Field(default=None, gt=0)
    """Number of updates between checkpoints. null: every `save_minutes` or every tenth of the run, whichever is sooner;
    but writing checkpoints never takes more than a tenth of the time."""
    save_minutes: float = Field(default=30.0, gt=0)
    """Minutes between checkpoints where save_steps is null."""
    save_total_limit: int = Field(default=2, gt=0)
    """Number of newest checkpoints to keep."""
    keep_every: int | None = Field(default=None, gt=0)
    """Also keep checkpoints whose step is a multiple of this number, even after the run has finished."""
    keep_checkpoints: bool = False
    """Keep the checkpoints after the run has finished."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    report_to: tuple[str, ...] = ()
    """Trackers of the Trainer that also get every update, such as wandb or mlflow. Configure them with their own
    environment variables."""
    workers: int | None = Field(default=None, ge=0)
    """Number of data loading processes; null: 0 on a CPU and 4 on a GPU."""

    @field_validator("packing", mode="before")
    @classmethod
    def _read_off(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _check_packing(self) -> TrainConfig:
        if self.packing != "off" and self.group_by_length:
            raise ValueError("group_by_length saves padding, but packed rows have none. Turn one of them off")
        if self.packing != "off" and self.attention == "eager":
            raise ValueError("packed rows need their own attention. Set attention=auto or packing=off")
        if self.packing == "off" and (self.pack_tokens or self.pack_views):
            raise ValueError("pack_tokens and pack_views need packing step or epoch. Remove them or set packing")
        return self

    @model_validator(mode="after")
    def _check_objective(self) -> TrainConfig:
        if (self.stage == "dpo") != (self.objective == "dpo"):
            raise ValueError(f"stage dpo needs objective dpo, and the reverse; got {self.stage} and {self.objective}")
        if self.objective != "dpo" and self.dpo != DpoConfig():
            raise ValueError("values under dpo need objective: dpo")
        return self

    @model_validator(mode="after")
    def _check_noise(self) -> TrainConfig:
        if self.objective == "dpo" and self.noise != NoiseConfig():
            raise ValueError(
                "noise needs objective next_token, because it could change what distinguishes the pairs of dpo"
            )
        return self

    @model_validator(mode="after")
    def _check_trainable(self) -> TrainConfig:
        if not self.trainable or len(set(self.trainable)) != len(self.trainable):
            raise ValueError(f"trainable must name one or more of {', '.join(PARTS)}, each once")
        return self

    @model_validator(mode="after")
    def _check_adapters(self) -> TrainConfig:
        if self.lora and self.parallel in ("zero3", "fsdp"):
            raise ValueError(f"adapters (lora) cannot be sharded. Use parallel ddp or zero2, not {self.parallel}")
        return self

    @model_validator(mode="after")
    def _check_compile(self) -> TrainConfig:
        if self.compile and self.parallel == "zero3":
            raise ValueError(
                "compile with parallel zero3 has not been shown to work: its weights are gathered inside the compiled "
                "layers. Set compile=false, or parallel=zero2"
            )
        return self

    @model_validator(mode="after")
    def _check_trained_parts(self) -> TrainConfig:
        if unused := sorted(self.learning_rates.keys() - {*self.trainable}):
            raise ValueError(f"learning_rates names {', '.join(unused)}, which trainable does not. Add or remove it")
        if self.lora and "language_model" not in self.trainable:
            raise ValueError("lora trains the language model. Add language_model to trainable, or remove lora")
        return self

    @model_validator(mode="after")
    def _check_projector(self) -> TrainConfig:
        if self.stage != "align" and self.model.checkpoint is None and self.model.projector is None:
            raise ValueError(
                f"stage {self.stage} of parts would begin with a random projector; give model.projector, the run "
                f"folder of an align stage or its projector file"
            )
        return self

    @property
    def whole_parts(self) -> tuple[Part, ...]:
        """The parts whose own weights are trained, without adapters."""
        return tuple(part for part in self.trainable if part != "language_model" or not self.lora)

    @property
    def conversations_per_row(self) -> int:
        """The number of conversations in a row: one, or two for pairs."""
        return 2 if self.objective == "dpo" else 1

    @property
    def paper_batch(self) -> int:
        """Rows per update of this stage in the paper; the paper gives no value for dpo."""
        return _PAPERS_BATCH[self.stage]

    def rows_per_update(self, world_size: int) -> int:
        """The global batch on this many processes. Raises `ValueError` if the sizes do not agree."""
        if self.accumulation is None:
            batch = self.global_batch or self.paper_batch
            if self.packing == "off":
                accumulation_steps(batch, self.device_batch, world_size)
            return batch
        batch = self.device_batch * self.accumulation * world_size
        if self.global_batch not in (None, batch):
            raise ValueError(
                f"global_batch {self.global_batch} is not device_batch {self.device_batch} x accumulation "
                f"{self.accumulation} x {world_size} processes = {batch}; leave accumulation out to have it derived"
            )
        return batch

    def with_resolved_auto(self, processes: int = 1) -> TrainConfig:
        """Resolve batch sizes and `auto`, so that a resume with other processes or devices cannot change the run."""
        from sicog.model.precision import resolve_precision
        from sicog.training.parallel.kind import resolve_parallel

        return self.model_copy(
            update={
                "global_batch": self.rows_per_update(processes),
                "accumulation": None,
                "precision": resolve_precision(self.precision),
                "parallel": resolve_parallel(self.parallel, self.out_dir, offload=self.offload),
            }
        )

    def problems(self, processes: int = 1) -> list[str]:
        """Messages about sizes that do not agree and packages that are not installed."""
        found = super().problems()
        try:
            self.rows_per_update(processes)
        except ValueError as error:
            found.append(str(error))
        found += self.refused_checkpointing()
        needed = {
            "peft": self.lora is not None and "lora",
            "deepspeed": self.parallel in ("zero2", "zero3") and f"parallel {self.parallel}",
            "bitsandbytes": self.optimizer == "adamw_8bit" and "optimizer adamw_8bit",
            "flash_attn": self.attention == "flash" and "attention flash",
            "liger_kernel": self.kernels == "liger" and "kernels liger",
        } | {tracker: f"report_to {tracker}" for tracker in self.report_to if tracker in _TRACKERS}
        wanted = {module: what for module, what in needed.items() if what}
        return found + [
            p
            for module, what in wanted.items()
            for p in missing_package_message(module, what, module.replace("_", "-"))
        ]

    def refused_checkpointing(self) -> list[str]:
        """Messages about packages too old for the level of gradient checkpointing."""
        found = []
        if self.compile and self.gradient_checkpointing == "selective":
            found += older_package_message("transformers", "5.23", "compile with gradient_checkpointing selective")
        if self.parallel == "fsdp" and self.gradient_checkpointing in ("selective", "full"):
            found += older_package_message("torch", "2.13", "parallel fsdp with gradient_checkpointing")
        return found

    def inputs(self) -> dict[str, Path]:
        """The inputs that decide the result, by name, for run.json."""
        reference = {"dpo.reference": self.dpo.reference} if self.dpo.reference else {}
        return {**self.model.inputs(), **self.data.inputs(), **reference}
