"""Typed configuration, its keys for people, and what is wrong with a config in plain words."""

from sicog.config.typed import (
    Config,
    ConfigT,
    apply_overrides,
    by_its_key,
    load_config,
    load_extended,
    load_yaml,
    merge,
    paths_of,
    say_old_names,
    validate,
)

__all__ = [
    "Config",
    "ConfigT",
    "apply_overrides",
    "by_its_key",
    "load_config",
    "load_extended",
    "load_yaml",
    "merge",
    "paths_of",
    "say_old_names",
    "validate",
]
