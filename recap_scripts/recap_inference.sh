#!/usr/bin/env bash
# Step 2, captions: sample one candidate per image in the style of PROMPT; group several runs with `sicog group`.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"      # no cd: the user's relative paths stay theirs
[[ " $* " != *" --help "* ]] || exec "$root/training_scripts/launch.sh" script-help "${BASH_SOURCE[0]}"
: "${EXPERIMENT_NAME:?name of the run}" "${MODEL_PATH:?perception checkpoint}" "${DATA_PATH:?unlabelled images (LLaVA JSON)}"
exec "$root/training_scripts/launch.sh" sample "$root/recap_scripts/configs/captioning.yaml" \
    checkpoint="$MODEL_PATH" input="$DATA_PATH" image_folder="${IMAGE_FOLDER:-.}" \
    out_dir="${OUTPUT_DIR:-runs/$EXPERIMENT_NAME/captions-${PROMPT:-cod-default}}" prompt="${PROMPT:-cod-default}" \
    temperature="${TEMPERATURE:-0.7}" top_p="${TOP_P:-0.9}" beams="${BEAMS:-1}" "$@"
