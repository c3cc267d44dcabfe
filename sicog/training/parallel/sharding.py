"""Set up data parallelism: plain, DeepSpeed's ZeRO-2 and ZeRO-3, or FSDP.

Only this file imports deepspeed. ZeRO-2 shards the optimizer states and the gradients over the processes; ZeRO-3 also
shards the weights. On a GPU both use bfloat16 weights, with float32 copies in the optimizer's shards.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sicog.model.precision import chosen_device, resolve_precision
from sicog.training.config import ModelSource, TrainConfig
from sicog.training.parallel.kind import ZERO_STAGES, resolve_parallel

if TYPE_CHECKING:
    from sicog.model.modeling import SicogForConditionalGeneration
    from sicog.model.processing import SicogProcessor

    Loaded = tuple[SicogForConditionalGeneration, SicogProcessor]

# Timeout of a process in one collective call. The longest wait is for the main process, which saves or digests.
PATIENCE = timedelta(minutes=30)
_WHOLE = ".whole"
_UNIVERSAL_WORKERS = 8  # of a conversion to a universal checkpoint; each holds a part of the states in memory
# Elements sent at once: 0.4 GB of bfloat16, enough to keep a fast link busy and small compared to the weights.
_BUCKET = 200_000_000
_KEPT_WHOLE = 10_000  # elements; smaller parameters (norms, biases) are not sharded


def leave_together() -> None:
    """Wait for all processes, then close their process group.

    A process that ends with an open group may abort in the backend's threads, and the launcher then ends the others.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def trainer_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings of data parallelism for `TrainingArguments`."""
    config = config.model_copy(
        update={"parallel": resolve_parallel(config.parallel, config.out_dir, offload=config.offload)}
    )
    settings: dict[str, Any] = {"ddp_timeout": int(PATIENCE.total_seconds())}
    if config.parallel in ZERO_STAGES:
        _without_compiling()
        return {**settings, "deepspeed": deepspeed_config(config)}
    if config.parallel == "fsdp":
        # Layers are the units of sharding (`_no_split_modules` of the model's parts).
        return {**settings, "fsdp": True, "fsdp_config": {"cpu_offload": config.offload}}
    return settings


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's settings. Batch sizes are `auto`; the Trainer fills them in."""
    stage, on_gpu = ZERO_STAGES[config.parallel], chosen_device() == "cuda"
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": on_gpu,  # gloo does not support it
        "contiguous_gradients": True,
        "reduce_bucket_size": _BUCKET,
    }
    if stage == 2:
        zero |= {"reduce_scatter": True, "allgather_partitions": True, "allgather_bucket_size": _BUCKET}
    else:
        zero |= {
            "stage3_prefetch_bucket_size": _BUCKET // 4,
            "stage3_param_persistence_threshold": _KEPT_WHOLE,
            "stage3_max_live_parameters": 5 * _BUCKET,
            "stage3_max_reuse_distance": 5 * _BUCKET,
            "stage3_gather_16bit_weights_on_model_save": True,  # so that from_pretrained loads every checkpoint
        }
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    bf16 = resolve_precision(config.precision) == "bfloat16"
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": bf16},
        # Sum micro-batches in float32, because a bfloat16 sum loses small values. Sums over processes are in bfloat16,
        # as the original's are: in float32 they would send twice the bytes.
        "data_types": {"grad_accum_dtype": "fp32"},
        # Set here, because without this key the Trainer's max_grad_norm is silently ignored.
        "gradient_clipping": config.max_grad_norm,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        # Torch's fused AdamW, also on a CPU, because DeepSpeed's own is compiled at the first start.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def load(config: TrainConfig, load_model: Callable[[ModelSource], Loaded]) -> Loaded:
    """The model and processor of a config; under ZeRO-3 sharded from the start, so that no process holds it whole.

    The main process then builds a model from parts, and all processes read it from its files.
    """
    if config.parallel != "zero3":
        return load_model(config.model)
    _without_compiling()
    import deepspeed
    import torch
    from transformers.integrations import HfDeepSpeedConfig

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(timeout=PATIENCE, verbose=False)
    source, whole = config.model, config.out_dir / _WHOLE
    if source.checkpoint is None:
        source = ModelSource(checkpoint=whole)
        if torch.distributed.get_rank() == 0:
            shutil.rmtree(whole, ignore_errors=True)
            for thing in load_model(config.model):
                thing.save_pretrained(whole)
        torch.distributed.barrier()
    # Transformers reads it through a weak reference, so it must live until loading ends.
    sharding = HfDeepSpeedConfig(deepspeed_config(config) | _any_batch(torch.distributed.get_world_size()))
    loaded = load_model(source)
    assert sharding.is_zero3()
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        shutil.rmtree(whole, ignore_errors=True)
    return loaded


def load_universal(arguments: Any) -> None:
    """Let the Trainer of these arguments resume from a universal checkpoint."""
    arguments.hf_deepspeed_config.config["checkpoint"] = {"load_universal": True}


def repair_universal(optimizer: Any, folder: Path) -> None:
    """Fix two errors of DeepSpeed after ZeRO-3 has loaded the universal checkpoint of this folder.

    All parameter groups share one counter of Adam's steps, so it advances once per group. All groups also get the first
    group's settings, so weight decay would apply to norms and biases.
    """
    import torch

    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = torch.as_tensor(state["step"]).clone()
    (file,) = folder.glob("global_step*/zero/optimizer_state.pt")
    saved = torch.load(file, map_location="cpu", weights_only=False)["optimizer_state_dict"]["param_groups"]
    for group, settings in zip(optimizer.param_groups, saved, strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})


def to_universal(source: Path, target: Path) -> None:
    """Turn the shards in `source` (a `global_step` folder) into a universal checkpoint in `target`."""
    _without_compiling()
    from argparse import Namespace
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    from deepspeed.checkpoint.ds_to_universal import main

    workers = min(_UNIVERSAL_WORKERS, len(os.sched_getaffinity(0)))
    settings = {"num_extract_workers": workers, "num_merge_workers": workers, "keep_temp_folder": False}
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # hide its debug output
        main(
            Namespace(
                input_folder=str(source), output_folder=str(target), strict=True, inject_missing_state=True, **settings
            )
        )


def _any_batch(world_size: int) -> dict[str, int]:
    """Consistent batch sizes, because loading needs some."""
    sizes = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    return {**dict.fromkeys(sizes, 1), "train_batch_size": world_size}


def _without_compiling() -> None:
    """On a CPU DeepSpeed would compile an op for shared memory for minutes; gloo can replace it."""
    if chosen_device() == "cuda":
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
