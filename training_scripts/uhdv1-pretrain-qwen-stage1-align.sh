#!/usr/bin/env bash
# Stage 1: align. Train only the projector, on the thumbnail of each image.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"      # no cd: the user's relative paths stay theirs
[[ " $* " != *" --help "* ]] || exec "$root/training_scripts/launch.sh" script-help "${BASH_SOURCE[0]}"
: "${EXPERIMENT_NAME:?name of the run}" "${DATA_PATH:?image-caption data}"
: "${CLIP_CKPT_DIR:?folder of CLIP-ViT-L/14-336}" "${LLM_CKPT_DIR:?folder of the language model}"
exec "$root/training_scripts/launch.sh" train "$root/training_scripts/configs/align.yaml" \
    out_dir="${OUTPUT_DIR:-runs/$EXPERIMENT_NAME/stage1}" \
    model.vision_tower="$CLIP_CKPT_DIR" model.language_model="$LLM_CKPT_DIR" \
    data.path="$DATA_PATH" data.image_folder="${IMAGE_FOLDER:-.}" \
    learning_rate="${PRETRAIN_LEARNING_RATE:-2e-4}" device_batch="${PRETRAIN_BATCH:-8}" \
    global_batch="${GLOBAL_BATCH:-null}" accumulation="${ACCU_STEPS:-null}" "$@"
