"""Steps 1 and 4: every training stage.

config           the config of `sicog train`: all stages
train            train one stage, resumed from its last complete checkpoint
load             the model that a training starts from
parts            trainable parts; `lora` adds adapters
updates          which rows form each update
trainer          Transformers' Trainer with our order of rows and checkpoints
optimizer        parameter groups by part
objectives/      preference objectives
parallel/        several processes: ZeRO, FSDP, resharding
run_checkpoints  complete checkpoints of a run in progress; `save_times` says when
callbacks        metrics and progress; `speed` measures, `summary` opens the log
memory_check     run the heaviest micro-batch before the first update
recompute        gradient checkpointing; `fitting` chooses how much
signals          save and stop after an update; `time_limit` handles SLURM's signal
"""
