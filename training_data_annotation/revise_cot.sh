#!/usr/bin/env bash
# Step 1, reasoning: LLaVA-CoT rows to Chain-of-Thought and short-answer examples.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"      # no cd: the user's relative paths stay theirs
[[ " $* " != *" --help "* ]] || exec "$root/training_scripts/launch.sh" script-help "${BASH_SOURCE[0]}"
: "${ORIGINAL_COT_FILE:?LLaVA-CoT rows with their tagged sections}"
: "${OUTPUT_COT_DIR:?folder for the Chain-of-Thought examples}" "${OUTPUT_SHORT_DIR:?folder for the short answers}"
exec "$root/training_scripts/launch.sh" annotate "$root/training_data_annotation/configs/reasoning.yaml" \
    input="$ORIGINAL_COT_FILE" image_folder="${IMAGE_FOLDER:-null}" \
    chain_dir="$OUTPUT_COT_DIR" plain_dir="$OUTPUT_SHORT_DIR" "$@"
