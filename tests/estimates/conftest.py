"""A training is planned in the folders that the tests of training use."""

from tests.training.conftest import config, data_dir

__all__ = ["config", "data_dir"]
