#!/usr/bin/env bash
# Stage 2: instruction tuning of the pre-trained model; its output is the next model.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"      # no cd: the user's relative paths stay theirs
[[ " $* " != *" --help "* ]] || exec "$root/training_scripts/launch.sh" script-help "${BASH_SOURCE[0]}"
: "${EXPERIMENT_NAME:?name of the run}" "${DATA_PATH:?instruction data}" "${PREV_STAGE_CHECKPOINT:?checkpoint of stage 1.5}"
exec "$root/training_scripts/launch.sh" train "$root/training_scripts/configs/sft.yaml" \
    out_dir="${OUTPUT_DIR:-runs/$EXPERIMENT_NAME/stage2}" model.checkpoint="$PREV_STAGE_CHECKPOINT" \
    data.path="$DATA_PATH" data.image_folder="${IMAGE_FOLDER:-.}" \
    learning_rate="${FINETUNE_LEARNING_RATE:-2e-5}" device_batch="${FINETUNE_BATCH:-4}" \
    global_batch="${GLOBAL_BATCH:-null}" accumulation="${ACCU_STEPS:-null}" "$@"
