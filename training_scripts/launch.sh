#!/usr/bin/env bash
# Start `sicog VERB ...` on this machine: one process, or for training torchrun's when DISTRIBUTED_ARGS names its arguments.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
sicog="$(command -v sicog || echo "$root/.venv/bin/sicog")"
[ -x "$sicog" ] || { echo "sicog is not installed: run 'make setup' in $root, or install it in your environment" >&2; exit 2; }
if [ -n "${DISTRIBUTED_ARGS:-}" ] && [ "$1" != train ]; then
    echo "sicog $1: DISTRIBUTED_ARGS is for training; this runs as one process, with workers=N for several" >&2
elif [ -n "${DISTRIBUTED_ARGS:-}" ]; then
    read -ra distributed <<<"$DISTRIBUTED_ARGS"
    exec "$(dirname "$sicog")/torchrun" "${distributed[@]}" -m sicog "$@"
fi
exec "$sicog" "$@"
