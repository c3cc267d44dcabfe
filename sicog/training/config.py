"""The typed config of `sicog train`. The stages differ by their YAML only. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sicog.config import Config
from sicog.data.batching import accumulation_steps
from sicog.data.config import DataConfig, NoiseConfig
from sicog.model.hub import local_model
from sicog.model.kernels import Attention, Kernels
from sicog.model.precision import Precision
from sicog.packages import lacking

Part = Literal["vision_tower", "projector", "language_model"]
Checkpointing = Literal["none", "selective", "full"]
Parallel = Literal["auto", "ddp", "zero2", "zero3", "fsdp"]
_MODELS = ("checkpoint", "vision_tower", "language_model", "projector")
PARTS: tuple[Part, ...] = ("vision_tower", "projector", "language_model")
_PAPERS_BATCH = {"align": 256, "warmup": 128, "pretrain": 128, "sft": 128, "dpo": 128}


class ImageSettings(Config):
    """How the image processor of a model made from parts prepares images, beside what `config` says.

    normalize_on: `device` hands uint8 patches to the model, a quarter of the bytes; the numbers are the same.
    long_side: every image is first resized to it. max_patches: an image with a larger view is dropped.
    """

    normalize_on: Literal["host", "device"] = "host"
    long_side: int | None = Field(default=None, gt=0)
    max_patches: int = Field(default=2304, gt=0)


class ModelSource(Config):
    """Where the weights come from: a whole `checkpoint`, or parts. Folders, or ids of models of the Hugging Face hub
    that are in the local cache.

    projector: a previous align run, a .safetensors file, or an original mm_projector.bin; only align may begin without
    one, at random. turn_format: how the turns of a model made from parts are written, by default chatml; a checkpoint
    brings its own. config: values of `SicogConfig` for a model made from parts (scale, query_grid ...). image: the
    image processor's settings for such a model; a checkpoint brings its own, also to sampling.
    """

    checkpoint: Path | None = None
    vision_tower: Path | None = None
    language_model: Path | None = None
    projector: Path | None = None
    turn_format: Literal["chatml", "llama3"] | None = None
    config: dict[str, Any] = {}
    image: ImageSettings = ImageSettings()

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

    The margin is by how much more than the reference model the model prefers chosen to rejected. reference: the
    checkpoint of the reference model; by default the weights that training starts from.
    """

    beta: float = Field(default=0.1, gt=0)
    alpha: float = Field(default=1.0, gt=0)
    gamma: float = Field(default=1.0, ge=0)
    reference: Path | None = None


class LoraSettings(Config):
    """Low-rank adapters in place of the language model's own weights; see `sicog.training.lora`.

    The product of the two small matrices is scaled by alpha / r. dropout: of the adapters' inputs. targets: the names
    of the linear layers that get one, such as q_proj; by default all in the language model's blocks.
    """

    r: int = Field(default=64, gt=0)
    alpha: float = Field(default=128.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] | None = None


class TrainConfig(Config):
    """One training stage.

    objective: `next_token` on the assistant's text; `dpo` on preference pairs, with the values of `dpo`, where a row
    is a pair, two conversations, each no longer than max_length.

    global_batch is the number of rows of an update over all processes; accumulation is derived from it. For those who
    count the other way, `accumulation` alone makes it device_batch x accumulation x processes; with neither it is the
    paper's, 256 for align and 128 else. `max_steps`, when set, replaces `epochs`. precision `auto`: bfloat16 autocast
    on a GPU, float32 on a CPU (`native`: bfloat16 also on a CPU that computes in it); the weights are kept and saved in
    float32 either way. parallel: how processes share the training (`training.parallel`), `auto` is zero2 with several
    GPUs and deepspeed installed, else ddp; under zero2 and zero3 bfloat16 holds for the weights and the checkpoint too,
    beside float32 ones in the optimizer's shards. offload: the optimizer's states, and with zero3 the weights, lie in
    the CPU's memory. workers: data loading processes, by default 0 on a CPU and 4 on a GPU. report_to: trackers of the
    Trainer that get every update too, such as wandb or mlflow; they are set up by their own variables.

    gradient_checkpointing: for memory, what the layers computed is not kept but computed again in the backward pass;
    of `full` layers everything, of `selective` ones all but the results of matrix products and attention, see
    `sicog.training.recompute`. learning_rates: those of parts that differ from `learning_rate`; the schedule is one for
    all. optimizer: `adamw_8bit` keeps the moments in 8 bits (bitsandbytes, CUDA). lora: adapters are trained instead of
    the language model's own weights; the other parts of `trainable` are trained whole. attention, kernels, compile:
    see `sicog.model.kernels`. check_memory: before the first update, the heaviest micro-batch of the run is tried;
    None: on a GPU only.

    packing: `step` lays the rows of each update end to end in micro-batches without padding, `epoch` those of a whole
    epoch, with global_batch as the mean number of rows of an update; `off` pads device_batch rows. A packed micro-batch
    holds at most pack_tokens positions (by default device_batch x max_length) and pack_views slices and thumbnails (by
    default device_batch x 8, or those of the largest row), for dpo by default twice that, since a row is two
    conversations. The accumulation of packed rows follows from these limits;
    what `accumulation` says counts rows only.

    noise: what the images of training are shown with, see `sicog.data.noise`.

    save_total_limit: the newest so many checkpoints are kept; keep_every: and those whose step is a multiple of it,
    also when the run is finished.
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

    stage: Literal["warmup", "align", "pretrain", "sft", "dpo"]
    objective: Literal["next_token", "dpo"] = "next_token"
    dpo: DpoConfig = DpoConfig()
    run_dir: Path
    model: ModelSource
    data: DataConfig
    trainable: tuple[Part, ...] = PARTS
    slicing: bool = True
    noise: NoiseConfig = NoiseConfig()

    learning_rate: float = Field(gt=0)
    learning_rates: dict[Part, Annotated[float, Field(gt=0)]] = {}
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    lora: LoraSettings | None = None
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    global_batch: int | None = Field(default=None, gt=0)
    accumulation: int | None = Field(default=None, gt=0)
    device_batch: int = Field(gt=0)
    max_length: int = Field(default=4096, gt=0)
    group_by_length: bool = False
    packing: Literal["off", "step", "epoch"] = "off"
    pack_tokens: int | None = Field(default=None, gt=0)
    pack_views: int | None = Field(default=None, gt=0)
    seed: int = Field(default=42, ge=0)
    precision: Precision = "auto"
    parallel: Parallel = "auto"
    offload: bool = False
    gradient_checkpointing: Checkpointing = "none"
    attention: Attention = "auto"
    kernels: Kernels = "auto"
    compile: bool = False
    check_memory: bool | None = None

    save_steps: int = Field(default=2000, gt=0)
    save_total_limit: int = Field(default=2, gt=0)
    keep_every: int | None = Field(default=None, gt=0)
    keep_checkpoints: bool = False
    tensorboard: bool = True
    report_to: tuple[str, ...] = ()
    workers: int | None = Field(default=None, ge=0)

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

    def settled(self, processes: int = 1) -> TrainConfig:
        """The same accumulation on other processes, or `auto` on another kind of device, would be another run."""
        from sicog.model.precision import settled
        from sicog.training.parallel import settled_parallel

        return self.model_copy(
            update={
                "global_batch": self.rows_per_update(processes),
                "accumulation": None,
                "precision": settled(self.precision),
                "parallel": settled_parallel(self),
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
        } | {tracker: f"report_to {tracker}" for tracker in self.report_to}
        wanted = {module: what for module, what in needed.items() if what}
        return found + [p for module, what in wanted.items() for p in lacking(module, what, module.replace("_", "-"))]

    def inputs(self) -> dict[str, Path]:
        """The inputs whose content decides the result, by name, for run.json."""
        reference = {"dpo.reference": self.dpo.reference} if self.dpo.reference else {}
        return {**self.model.inputs(), **self.data.inputs(), **reference}
