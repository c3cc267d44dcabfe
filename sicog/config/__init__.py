"""Typed configuration, its list of keys, and error messages about configs.

typed       YAML plus overrides to a frozen model
keys        list the keys of a config, for help and docs
validation  error messages
paths       `~`, and names that are not UTF-8
packages    optional packages and how to install them
"""

from sicog.config.typed import (
    Config,
    ConfigT,
    apply_overrides,
    load_config,
    load_with_extends,
    load_yaml,
    merge,
    paths_of,
    report_old_names,
    resolve_key_names,
    validate,
)

__all__ = [
    "Config",
    "ConfigT",
    "apply_overrides",
    "load_config",
    "load_with_extends",
    "load_yaml",
    "merge",
    "paths_of",
    "report_old_names",
    "resolve_key_names",
    "validate",
]
