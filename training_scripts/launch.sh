#!/usr/bin/env bash
# Start `sicog VERB ...` on this machine in one process, or for training with torchrun if DISTRIBUTED_ARGS has its arguments.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
sicog="$(command -v sicog || echo "$root/.venv/bin/sicog")"
[ -x "$sicog" ] || { echo "sicog is not installed: run 'make setup' in $root, or install it in your environment" >&2; exit 2; }
if [[ " $* " == *" --dry-run "* || "$1" == script-help ]] || [ -z "${DISTRIBUTED_ARGS:-}" ]; then
    exec "$sicog" "$@"
fi
if [ "$1" != train ]; then
    echo "sicog $1: DISTRIBUTED_ARGS is for training; this runs as one process, with workers=N for several" >&2
    exec "$sicog" "$@"
fi
[ -z "${RANK:-}" ] || { echo "unset DISTRIBUTED_ARGS: slurm.sbatch has already started a process for each device" >&2; exit 2; }
read -ra distributed <<<"$DISTRIBUTED_ARGS"
# After a stop signal the processes have this long to save (torchrun's default is 30 seconds).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
exec "$(dirname "$sicog")/torchrun" "${distributed[@]}" -m sicog "$@"
