"""Typed configuration, its list of keys, and error messages about configs."""

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
