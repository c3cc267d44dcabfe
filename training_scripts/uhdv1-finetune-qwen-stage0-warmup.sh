#!/usr/bin/env bash
# Stage 0: warm up the perception or the reasoning model on a few annotated rows.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"      # no cd: the user's relative paths stay theirs
[[ " $* " != *" --help "* ]] || exec "$root/training_scripts/launch.sh" script-help "${BASH_SOURCE[0]}"
: "${EXPERIMENT_NAME:?name of the run}" "${DATA_PATH:?warm-up data}" "${PREV_STAGE_CHECKPOINT:?checkpoint to warm up}"
exec "$root/training_scripts/launch.sh" train "$root/training_scripts/configs/warmup.yaml" \
    out_dir="${OUTPUT_DIR:-runs/$EXPERIMENT_NAME/stage0}" model.checkpoint="$PREV_STAGE_CHECKPOINT" \
    data.path="$DATA_PATH" data.image_folder="${IMAGE_FOLDER:-.}" \
    learning_rate="${FINETUNE_LEARNING_RATE:-2e-5}" device_batch="${FINETUNE_BATCH:-4}" \
    global_batch="${GLOBAL_BATCH:-null}" accumulation="${ACCU_STEPS:-null}" "$@"
