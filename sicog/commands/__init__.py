"""The commands of `sicog`, one module for each kind, and their help. Imports of what they start are lazy.

verb_commands  a command for every verb, with `--dry-run`
runs           `run`, `status`, `report`, `step`
generation     `export-candidates`
evaluation     `eval`, `results`
look           `ask`, `data check`, `show-image`, `show-corruptions`, `flops`
convert        checkpoints: import, export, reshard, merge
lab            `sicog lab`
help           panels, examples and keys in `--help`
arguments      arguments that no config checks
script_help    `SCRIPT.sh --help`
"""
