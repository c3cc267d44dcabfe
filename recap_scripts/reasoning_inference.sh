#!/usr/bin/env bash
# Step 2, reasoning: sample one answer per question in the style of PROMPT; AUGMENT_METHODS corrupts the images (for DPO).
# SPLIT: reads ${DATA_PATH}_$SPLIT.json if it exists; it is the end of the output's name
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"      # no cd: the user's relative paths stay theirs
[[ " $* " != *" --help "* ]] || exec "$root/training_scripts/launch.sh" script-help "${BASH_SOURCE[0]}"
: "${EXPERIMENT_NAME:?name of the run}" "${MODEL_PATH:?reasoning checkpoint}" "${DATA_PATH:?unlabelled questions (LLaVA JSON)}"
input="$DATA_PATH" name="answers-${PROMPT:-cot-default}${SPLIT:+-$SPLIT}"
if [ -n "${SPLIT:-}" ] && [ -f "${DATA_PATH}_$SPLIT.json" ]; then input="${DATA_PATH}_$SPLIT.json"; fi
exec "$root/training_scripts/launch.sh" sample "$root/recap_scripts/configs/reasoning.yaml" \
    checkpoint="$MODEL_PATH" input="$input" image_folder="${IMAGE_FOLDER:-.}" \
    out_dir="${OUTPUT_DIR:-runs/$EXPERIMENT_NAME/$name}" prompt="${PROMPT:-cot-default}" \
    corruptions="[${AUGMENT_METHODS:-}]" \
    temperature="${TEMPERATURE:-0.7}" top_p="${TOP_P:-0.9}" beams="${BEAMS:-1}" "$@"
