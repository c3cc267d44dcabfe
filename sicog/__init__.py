"""sicog: self-improving cognition for vision-language models (arXiv 2503.12303).

What most people use is offered here, and imported on first use: `import sicog` needs neither torch nor Transformers.

model and processor   SicogForConditionalGeneration, SicogProcessor, load_checkpoint
generate              sample, with SampleConfig
curate                score, with ScoreConfig; select, with SelectConfig
whole runs            load_recipe, which gives a Recipe; run_recipe

`version` holds the version. All else is in the packages of the steps.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sicog.version import __version__

if TYPE_CHECKING:
    from sicog.curation.score.score import ScoreConfig, score
    from sicog.curation.select.select import SelectConfig, select
    from sicog.generation.config import SampleConfig
    from sicog.generation.sample import sample
    from sicog.model.checkpoints import load_checkpoint
    from sicog.model.modeling import SicogForConditionalGeneration
    from sicog.model.processing import SicogProcessor
    from sicog.runs.recipe import Recipe, load_recipe
    from sicog.runs.run import run as run_recipe

_HOME = {
    "Recipe": "sicog.runs.recipe:Recipe",
    "SampleConfig": "sicog.generation.config:SampleConfig",
    "ScoreConfig": "sicog.curation.score.score:ScoreConfig",
    "SelectConfig": "sicog.curation.select.select:SelectConfig",
    "SicogForConditionalGeneration": "sicog.model:SicogForConditionalGeneration",
    "SicogProcessor": "sicog.model:SicogProcessor",
    "load_checkpoint": "sicog.model:load_checkpoint",
    "load_recipe": "sicog.runs.recipe:load_recipe",
    "run_recipe": "sicog.runs.run:run",
    "sample": "sicog.generation.sample:sample",
    "score": "sicog.curation.score.score:score",
    "select": "sicog.curation.select.select:select",
}
__all__ = [
    "Recipe",
    "SampleConfig",
    "ScoreConfig",
    "SelectConfig",
    "SicogForConditionalGeneration",
    "SicogProcessor",
    "__version__",
    "load_checkpoint",
    "load_recipe",
    "run_recipe",
    "sample",
    "score",
    "select",
]

if not TYPE_CHECKING:  # type checkers see the imports above, and report a name that is not there

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(_HOME)}")
        module, _, attribute = _HOME[name].partition(":")
        return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
