"""sicog: self-improving cognition for vision-language models (arXiv 2503.12303)."""

__version__ = "0.1.0"
