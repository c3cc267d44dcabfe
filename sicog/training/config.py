"""The typed config of `sicog train`. The stages differ by their YAML only. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sicog.config import Config
from sicog.config.packages import missing_package_message
from sicog.data.batching import accumulation_steps
from sicog.data.config import DataConfig, NoiseConfig
from sicog.model.hub import local_model
from sicog.model.kernels.choice import Attention, Kernels
from sicog.model.precision import Precision
from sicog.training.parallel.kind import Parallel

Part = Literal["vision_tower", "projector", "language_model"]
Checkpointing = Literal["none", "selective", "full"]
_MODELS = ("checkpoint", "vision_tower", "language_model", "projector")
PARTS: tuple[Part, ...] = ("vision_tower", "projector", "language_model")
# Of the Trainer's trackers those that are packages of the same name; it names the others itself.
_TRACKERS = ("wandb", "mlflow", "comet_ml", "clearml", "neptune", "codecarbon", "dvclive", "swanlab", "trackio")
_PAPERS_BATCH = {"align": 256, "warmup": 128, "pretrain": 128, "sft": 128, "dpo": 128}


class ImageSettings(Config):
    """How the image processor of a model made from parts prepares images, beside what `model.config` says."""

    normalize_on: Literal["host", "device"] = "host"
    """`device` hands uint8 patches to the model, a quarter of the bytes; the numbers are the same."""
    long_side: int | None = Field(default=None, gt=0)
    """Every image is first resized to this long side."""
    max_patches: int = Field(default=2304, gt=0)
    """An image with a larger view is dropped."""


class ModelSource(Config):
    """Where the weights come from: a whole `checkpoint`, or parts. Folders, or ids of models of the Hugging Face hub
    that are in the local cache."""

    checkpoint: Path | None = None
    """A whole checkpoint, which brings its own turn format, config and image settings; or else the parts below."""
    vision_tower: Path | None = None
    """A CLIP vision tower."""
    language_model: Path | None = None
    """A causal language model."""
    projector: Path | None = None
    """A previous align run, a .safetensors file, or an original mm_projector.bin. Only align may start without one, at
    random."""
    turn_format: Literal["chatml", "llama3"] | None = None
    """How the turns of a model made from parts are written; null: chatml."""
    config: dict[str, Any] = {}
    """Values of `SicogConfig` for a model made from parts, such as scale (a slice has about scale x scale pixels),
    max_slices, query_grid (a view becomes query_grid x query_grid features) and projector_type (resampler or mlp)."""
    image: ImageSettings = ImageSettings()
    """Image settings of a model made from parts; they are saved with it, and hold in sampling too."""

    @model_validator(mode="after")
    def _either_whole_or_parts(self) -> ModelSource:
        has_image = self.image != ImageSettings()
        of_parts = (self.vision_tower, self.language_model, self.projector, self.turn_format, self.config, has_image)
        if self.checkpoint and any(of_parts):
            raise ValueError(
                "give either checkpoint or vision_tower and language_model (with projector, turn_format, config, image)"
            )
        if not self.checkpoint and not (self.vision_tower and self.language_model):
            raise ValueError("give checkpoint, or both vision_tower and language_model")
        return self

    def inputs(self) -> dict[str, Path]:
        """The files and folders that are read, by name."""
        return {f"model.{name}": path for name in _MODELS if (path := getattr(self, name)) is not None}

    def located(self) -> ModelSource:
        """The same with the local folder of each model that is given by its id on the hub.

        Raises `ValueError` for a model that is not there, saying how to get it.
        """
        given = {name: getattr(self, name) for name in _MODELS}
        return self.model_copy(
            update={name: local_model(path, f"model.{name}") for name, path in given.items() if path is not None}
        )


class DpoConfig(Config):
    """loss = alpha * mean over pairs of -log sigmoid(beta * margin) + gamma * cross-entropy of the chosen answers.

    The margin is by how much more than the reference model the model prefers chosen to rejected.
    """

    beta: float = Field(default=0.1, gt=0)
    """Factor of the margin."""
    alpha: float = Field(default=1.0, gt=0)
    """Weight of the preference loss."""
    gamma: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of the chosen answers."""
    reference: Path | None = None
    """Checkpoint of the reference model; null: the weights that training starts from."""


class LoraSettings(Config):
    """Low-rank adapters in place of the language model's own weights; see `sicog.training.lora`."""

    r: int = Field(default=64, gt=0)
    """Rank of the adapters."""
    alpha: float = Field(default=128.0, gt=0)
    """The product of the two small matrices is scaled by alpha / r."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout of the adapters' inputs."""
    targets: tuple[str, ...] | None = None
    """Names of the linear layers that get one, such as q_proj; null: all in the language model's blocks."""


class TrainConfig(Config):
    """One training stage.

    The weights are kept and saved in float32, except under zero2 and zero3: there bfloat16 holds for the weights and
    the checkpoint too, beside float32 ones in the optimizer's shards.
    """

    volatile: ClassVar[frozenset[str]] = frozenset(
        {
            "workers",
            "save_steps",
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
    """Which stage of the method this is."""
    objective: Literal["next_token", "dpo"] = "next_token"
    """`next_token` trains on the assistant's text; `dpo` on preference pairs, with the values of `dpo`. A row is then a
    pair: two conversations, each no longer than max_length."""
    dpo: DpoConfig = DpoConfig()
    out_dir: Path
    """Folder to write: checkpoints, metrics and the final model."""
    model: ModelSource
    data: DataConfig
    trainable: tuple[Part, ...] = PARTS
    """Parts that are trained; the others are frozen."""
    slicing: bool = True
    """Whether images are cut into slices; false: the thumbnail alone."""
    noise: NoiseConfig = NoiseConfig()

    learning_rate: float = Field(gt=0)
    """Highest learning rate; after the warm-up it falls as a cosine."""
    learning_rates: dict[Part, Annotated[float, Field(gt=0)]] = {}
    """Learning rates of parts that differ from `learning_rate`; the schedule is one for all."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps the moments in 8 bits (bitsandbytes, CUDA)."""
    lora: LoraSettings | None = None
    """Adapters are trained instead of the language model's own weights; the other parts of `trainable` are trained
    whole. null: no adapters."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the updates in which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the optimizer."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data."""
    max_steps: int | None = Field(default=None, gt=0)
    """Updates, instead of `epochs`."""
    global_batch: int | None = Field(default=None, gt=0)
    """Rows of an update over all processes; accumulation is derived from it. null: from `accumulation`, or else the
    paper's, 256 for align and 128 for other stages."""
    accumulation: int | None = Field(default=None, gt=0)
    """For those who count the other way: global_batch becomes device_batch x accumulation x processes."""
    device_batch: int = Field(gt=0)
    """Rows that a device takes at once."""
    max_length: int = Field(default=4096, gt=0)
    """Tokens of a row at most, with the features of its images."""
    group_by_length: bool = False
    """Rows of similar length share a batch, which saves padding."""
    packing: Literal["off", "step", "epoch"] = "off"
    """`step` lays the rows of each update end to end in micro-batches without padding, `epoch` those of a whole epoch,
    with global_batch as the mean number of rows of an update; `off` pads device_batch rows. The accumulation of packed
    rows follows from the two limits below; what `accumulation` says counts rows only."""
    pack_tokens: int | None = Field(default=None, gt=0)
    """Positions of a packed micro-batch at most; null: device_batch x max_length, for dpo twice that."""
    pack_views: int | None = Field(default=None, gt=0)
    """Slices and thumbnails of a packed micro-batch at most; null: device_batch x 8, or those of the largest row, for
    dpo twice that."""
    seed: int = Field(default=42, ge=0)
    """Seed of the order of rows, of noise and of new weights."""
    precision: Precision = "auto"
    """`auto` is bfloat16 autocast on a GPU, float32 on a CPU; `native` is bfloat16 also on a CPU that computes in it.
    """
    parallel: Parallel = "auto"
    """How processes share the training; see `sicog.training.parallel.sharding`. `auto` is zero2 with several GPUs and
    deepspeed installed, else ddp."""
    offload: bool = False
    """Keep the optimizer's states, and with zero3 the weights, in the CPU's memory."""
    gradient_checkpointing: Checkpointing = "none"
    """To save memory, results of layers are not kept but computed again in the backward pass: of `full` layers
    everything, of `selective` ones all but the results of matrix products and attention; see
    `sicog.training.recompute`."""
    attention: Attention = "auto"
    """Implementation of attention; see `sicog.model.kernels.choice`."""
    kernels: Kernels = "auto"
    """Fused kernels; see `sicog.model.kernels.choice`."""
    compile: bool = False
    """Whether to compile the model; see `sicog.model.kernels.choice`."""
    check_memory: bool | None = None
    """Before the first update, try the heaviest micro-batch of the run; null: on a GPU only."""

    save_steps: int = Field(default=2000, gt=0)
    """Updates between checkpoints."""
    save_total_limit: int = Field(default=2, gt=0)
    """So many of the newest checkpoints are kept."""
    keep_every: int | None = Field(default=None, gt=0)
    """Checkpoints whose step is a multiple of it are kept too, also when the run is finished."""
    keep_checkpoints: bool = False
    """Keep the checkpoints when the run is finished."""
    tensorboard: bool = True
    """Write TensorBoard's files."""
    report_to: tuple[str, ...] = ()
    """Trackers of the Trainer that get every update too, such as wandb or mlflow; they are set up by their own
    variables."""
    workers: int | None = Field(default=None, ge=0)
    """Data loading processes; null: 0 on a CPU and 4 on a GPU."""

    @field_validator("packing", mode="before")
    @classmethod
    def _yaml_reads_a_bare_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _packing_needs_no_grouping(self) -> TrainConfig:
        if self.packing != "off" and self.group_by_length:
            raise ValueError("group_by_length saves padding, and packed rows have none; set one of the two off")
        if self.packing != "off" and self.attention == "eager":
            raise ValueError("packed rows have an attention of their own; leave attention at auto, or packing off")
        if self.packing == "off" and (self.pack_tokens or self.pack_views):
            raise ValueError("pack_tokens and pack_views are limits of packing: step or epoch; leave them out")
        return self

    @model_validator(mode="after")
    def _dpo_is_one_stage(self) -> TrainConfig:
        if (self.stage == "dpo") != (self.objective == "dpo"):
            raise ValueError(f"stage dpo and objective dpo go together; got {self.stage} and {self.objective}")
        if self.objective != "dpo" and self.dpo != DpoConfig():
            raise ValueError("values of dpo are for objective: dpo")
        return self

    @model_validator(mode="after")
    def _noise_is_of_rows(self) -> TrainConfig:
        if self.objective == "dpo" and self.noise != NoiseConfig():
            raise ValueError("noise is for objective next_token; pairs for dpo differ by what is done to their images")
        return self

    @model_validator(mode="after")
    def _something_is_trained(self) -> TrainConfig:
        if not self.trainable or len(set(self.trainable)) != len(self.trainable):
            raise ValueError(f"trainable must name one or more of {', '.join(PARTS)}, each once")
        return self

    @model_validator(mode="after")
    def _adapters_are_whole(self) -> TrainConfig:
        if self.lora and self.parallel in ("zero3", "fsdp"):
            raise ValueError(
                f"adapters (lora) are not sharded; use parallel ddp or zero2 with them, not {self.parallel}"
            )
        return self

    @model_validator(mode="after")
    def _what_is_set_is_trained(self) -> TrainConfig:
        if unused := sorted(self.learning_rates.keys() - {*self.trainable}):
            raise ValueError(f"learning_rates names {', '.join(unused)}, which trainable does not; add or remove it")
        if self.lora and "language_model" not in self.trainable:
            raise ValueError("lora trains the language model; name language_model in trainable, or leave lora out")
        return self

    @model_validator(mode="after")
    def _only_align_begins_without_a_projector(self) -> TrainConfig:
        if self.stage != "align" and self.model.checkpoint is None and self.model.projector is None:
            raise ValueError(
                f"stage {self.stage} of parts would begin with a random projector; give model.projector, the run "
                f"folder of an align stage or its projector file"
            )
        return self

    @property
    def whole_parts(self) -> tuple[Part, ...]:
        """The parts whose own weights are trained, not adapters in their place."""
        return tuple(part for part in self.trainable if part != "language_model" or not self.lora)

    @property
    def conversations_per_row(self) -> int:
        """A row is one conversation, or a pair of them."""
        return 2 if self.objective == "dpo" else 1

    @property
    def papers_batch(self) -> int:
        """Rows per update of this stage in the paper, which names none for dpo."""
        return _PAPERS_BATCH[self.stage]

    def rows_per_update(self, world_size: int) -> int:
        """The global batch on that many processes. Raises `ValueError` when the sizes do not agree."""
        if self.accumulation is None:
            batch = self.global_batch or self.papers_batch
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
        """The same accumulation on other processes, or `auto` on another kind of device, would be another run."""
        from sicog.model.precision import resolve_precision
        from sicog.training.parallel.kind import settled_parallel

        return self.model_copy(
            update={
                "global_batch": self.rows_per_update(processes),
                "accumulation": None,
                "precision": resolve_precision(self.precision),
                "parallel": settled_parallel(self.parallel, self.out_dir, offload=self.offload),
            }
        )

    def problems(self, processes: int = 1) -> list[str]:
        """Sizes that do not agree, and packages that are not installed."""
        found = super().problems()
        try:
            self.rows_per_update(processes)
        except ValueError as error:
            found.append(str(error))
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

    def inputs(self) -> dict[str, Path]:
        """The inputs whose content decides the result, by name, for run.json."""
        reference = {"dpo.reference": self.dpo.reference} if self.dpo.reference else {}
        return {**self.model.inputs(), **self.data.inputs(), **reference}
