#!/usr/bin/env bash
# Install the pinned set and sicog itself into an environment: with uv when it can be had, else with pip.
# A third file names packages to install without their dependencies.
set -euo pipefail
python="${1:?the python of the environment}" requirements="${2:?a requirements file}" alone="${3:-}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
uv="$(command -v uv || true)"
if [ -z "$uv" ] && { [ -x "$(dirname "$python")/uv" ] || "$python" -m pip install --quiet uv; }; then
    uv="$(dirname "$python")/uv"
fi
if [ -n "$uv" ]; then
    # Compiled now: where PYTHONDONTWRITEBYTECODE is set, every start would compile PyTorch and Transformers again.
    install=("$uv" pip install --quiet --compile-bytecode --python "$python")
else
    echo "uv is not to be had here; pip takes a few minutes" >&2
    install=("$python" -m pip install --quiet)
fi
"${install[@]}" -r "$root/$requirements"
if [ -n "$alone" ]; then "${install[@]}" --no-deps -r "$root/$alone"; fi
"${install[@]}" --no-deps -e "$root"
