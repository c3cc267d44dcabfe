#!/usr/bin/env bash
# Step 1, captions: a teacher rewrites them as Chains-of-Description, for CoD and detailed-description examples.
# TEACHER_MODEL: name of the teacher; its address and key are in OPENAI_BASE_URL and OPENAI_API_KEY
# IMAGE_DIR: folder that image paths are relative to; also called IMAGE_FOLDER
# IMAGE_FOLDER: another name of IMAGE_DIR
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"      # no cd: the user's relative paths stay theirs
[[ " $* " != *" --help "* ]] || exec "$root/training_scripts/launch.sh" script-help "${BASH_SOURCE[0]}"
: "${ORIGINAL_CAPTION_FILE:?rows with image, caption and conversations (ALLaVA form); without TEACHER_MODEL also cod_caption}"
: "${OUTPUT_COD_DIR:?folder for the Chain-of-Description examples}" "${OUTPUT_DD_DIR:?folder for the detailed descriptions}"
config=captioning teacher=()
if [ -n "${TEACHER_MODEL:-}" ]; then
    config=teacher teacher=(teacher.endpoint.model="$TEACHER_MODEL")
fi
exec "$root/training_scripts/launch.sh" annotate "$root/training_data_annotation/configs/$config.yaml" \
    input="$ORIGINAL_CAPTION_FILE" image_folder="${IMAGE_DIR:-${IMAGE_FOLDER:-null}}" \
    chain_dir="$OUTPUT_COD_DIR" plain_dir="$OUTPUT_DD_DIR" "${teacher[@]}" "$@"
