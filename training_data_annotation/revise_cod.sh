#!/usr/bin/env bash
# Step 1, captions: annotated captions to Chain-of-Description and detailed-description examples.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"      # no cd: the user's relative paths stay theirs
: "${ORIGINAL_CAPTION_FILE:?captions with the chain of a teacher under cod_caption (ALLaVA form)}"
: "${OUTPUT_COD_DIR:?folder for the Chain-of-Description examples}" "${OUTPUT_DD_DIR:?folder for the detailed descriptions}"
exec "$root/training_scripts/launch.sh" annotate "$root/training_data_annotation/configs/captioning.yaml" \
    input="$ORIGINAL_CAPTION_FILE" image_folder="${IMAGE_DIR:-${IMAGE_FOLDER:-null}}" \
    chain_dir="$OUTPUT_COD_DIR" plain_dir="$OUTPUT_DD_DIR" "$@"
