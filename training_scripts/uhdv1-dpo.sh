#!/usr/bin/env bash
# DPO: prefer chosen over rejected answers, such as answers to corrupted images (`sicog pair` makes the pairs).
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"      # no cd: the user's relative paths stay theirs
[[ " $* " != *" --help "* ]] || exec "$root/training_scripts/launch.sh" script-help "${BASH_SOURCE[0]}"
: "${EXPERIMENT_NAME:?name of the run}" "${DATA_PATH:?preference pairs}" "${PREV_STAGE_CHECKPOINT:?checkpoint to train, also the reference model}"
exec "$root/training_scripts/launch.sh" train "$root/training_scripts/configs/dpo.yaml" \
    out_dir="${OUTPUT_DIR:-runs/$EXPERIMENT_NAME/dpo}" model.checkpoint="$PREV_STAGE_CHECKPOINT" \
    data.path="$DATA_PATH" data.image_folder="${IMAGE_FOLDER:-.}" \
    learning_rate="${FINETUNE_LEARNING_RATE:-5e-7}" device_batch="${FINETUNE_BATCH:-2}" \
    global_batch="${GLOBAL_BATCH:-null}" accumulation="${ACCU_STEPS:-null}" "$@"
